//! The rings between a core and an application, and the sockets on the application's side.
//!
//! One implementation for two uses: over heap memory for threads of the engine's own process, and over a sealed memory
//! file for other processes. Whatever one side reads of what the other wrote is masked and bounded: it may be hostile.
