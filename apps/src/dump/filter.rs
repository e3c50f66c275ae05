//! tcpdump's filter language, through libpcap, which is loaded when a filter is given and not before.
//! Source: pcap-filter(7), pcap_compile(3PCAP), pcap_offline_filter(3PCAP).

use std::ffi::{CStr, CString, c_char, c_int, c_void};

use libloading::{Library, Symbol};
use pmd::pcap::Frame;
use thiserror::Error;

/// The names libpcap has: Debian's, and that of its own build.
const LIBRARIES: [&str; 2] = ["libpcap.so.0.8", "libpcap.so.1"];

/// DLT_EN10MB: Ethernet.
const ETHERNET: c_int = 1;

/// The longest frame that a filter is made for.
const SNAPLEN: c_int = 262_144;

/// Nothing is known of the network, so `ip broadcast` cannot be asked for.
const NETMASK_UNKNOWN: u32 = u32::MAX;

/// Why there is no filter.
#[derive(Debug, Error)]
pub enum FilterError {
    /// The library is not installed.
    #[error("a filter needs libpcap, which cannot be loaded; install it: sudo apt install libpcap0.8")]
    NoLibrary {
        /// What the loader says.
        source: libloading::Error,
    },
    /// It lacks what it always had.
    #[error("libpcap is of another kind than was expected")]
    Library {
        /// What the loader says.
        source: libloading::Error,
    },
    /// No expression.
    #[error("filter {expression:?}: {message}; see man pcap-filter")]
    Expression {
        /// What was typed.
        expression: String,
        /// What libpcap says.
        message: String,
    },
}

/// `struct bpf_program`.
#[repr(C)]
struct Program {
    len: u32,
    instructions: *mut c_void,
}

/// `struct pcap_pkthdr`.
#[repr(C)]
struct Header {
    seconds: i64,
    microseconds: i64,
    caplen: u32,
    len: u32,
}

type OpenDead = unsafe extern "C" fn(c_int, c_int) -> *mut c_void;
type Compile = unsafe extern "C" fn(*mut c_void, *mut Program, *const c_char, c_int, u32) -> c_int;
type GetError = unsafe extern "C" fn(*mut c_void) -> *const c_char;
type OfflineFilter = unsafe extern "C" fn(*const Program, *const Header, *const u8) -> c_int;
type FreeCode = unsafe extern "C" fn(*mut Program);
type Close = unsafe extern "C" fn(*mut c_void);

/// A compiled expression.
pub struct Filter {
    program: Program,
    matches: OfflineFilter,
    free: FreeCode,
    /// What the functions are in.
    _library: Library,
}

impl Filter {
    /// Compiles `expression`.
    ///
    /// # Errors
    /// [`FilterError`].
    pub fn compile(expression: &str) -> Result<Self, FilterError> {
        let refused =
            |message: String| FilterError::Expression { expression: expression.to_owned(), message };
        let text = CString::new(expression).map_err(|_| refused("it has a zero byte".to_owned()))?;
        let library = load()?;
        // SAFETY: these are the functions' names and types in libpcap since 0.8, whose interface is stable. The plain
        //         pointers are used only while `library` is there: in this function, and in `Self`, which keeps it.
        let (open, compile, error, matches, free, close) = unsafe {
            (
                *symbol::<OpenDead>(&library, b"pcap_open_dead\0")?,
                *symbol::<Compile>(&library, b"pcap_compile\0")?,
                *symbol::<GetError>(&library, b"pcap_geterr\0")?,
                *symbol::<OfflineFilter>(&library, b"pcap_offline_filter\0")?,
                *symbol::<FreeCode>(&library, b"pcap_freecode\0")?,
                *symbol::<Close>(&library, b"pcap_close\0")?,
            )
        };
        let mut program = Program { len: 0, instructions: std::ptr::null_mut() };
        // SAFETY: the handle is what `open` made, checked, and closed once, after its last use; `text` ends with a zero
        //         byte; `program` is ours and filled in only by a call that returns 0. The message is copied while the
        //         handle that it is in is open.
        unsafe {
            let handle = open(ETHERNET, SNAPLEN);
            if handle.is_null() {
                return Err(refused("libpcap has no memory".to_owned()));
            }
            let compiled = compile(handle, &raw mut program, text.as_ptr(), 1, NETMASK_UNKNOWN);
            let message = (compiled != 0)
                .then(|| error(handle))
                .filter(|message| !message.is_null())
                .map(|message| CStr::from_ptr(message).to_string_lossy().into_owned());
            close(handle);
            if compiled != 0 {
                return Err(refused(message.unwrap_or_default()));
            }
        }
        Ok(Self { program, matches, free, _library: library })
    }

    /// Whether it lets the frame pass.
    pub fn matches(&self, frame: &Frame<'_>) -> bool {
        let length = |len: usize| u32::try_from(len).unwrap_or(u32::MAX);
        let header = Header {
            seconds: 0,
            microseconds: 0,
            caplen: length(frame.bytes.len()),
            len: length(frame.original_len),
        };
        // SAFETY: the program was compiled and is not freed yet; the header says how many bytes there are, and the
        //         filter reads no others.
        unsafe { (self.matches)(&raw const self.program, &raw const header, frame.bytes.as_ptr()) != 0 }
    }
}

impl Drop for Filter {
    fn drop(&mut self) {
        // SAFETY: compiled once, freed once; the library is still there, as fields go after this.
        unsafe { (self.free)(&raw mut self.program) }
    }
}

fn load() -> Result<Library, FilterError> {
    let mut last = None;
    for name in LIBRARIES {
        // SAFETY: libpcap's constructors do nothing but set up its own variables.
        match unsafe { Library::new(name) } {
            Ok(library) => return Ok(library),
            // The first is the one that the message should name.
            Err(source) => last = last.or(Some(source)),
        }
    }
    Err(FilterError::NoLibrary { source: last.expect("there are names to try") })
}

/// # Safety
/// `T` is the type of what is called `name`.
unsafe fn symbol<'a, T>(library: &'a Library, name: &[u8]) -> Result<Symbol<'a, T>, FilterError> {
    // SAFETY: as the caller promised.
    unsafe { library.get(name) }.map_err(|source| FilterError::Library { source })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_match_what_tcpdump_would() {
        let filter = |expression| match Filter::compile(expression) {
            Err(error @ FilterError::NoLibrary { .. }) => {
                println!("SKIPPED: {error}");
                None
            }
            other => Some(other),
        };
        let Some(arp) = filter("arp and not vlan") else { return };
        let arp = arp.unwrap();
        let mut bytes = [0; 60];
        let frame = |bytes: &[u8]| {
            let frame =
                Frame { bytes, original_len: bytes.len(), link_type: 1, time_ns: 0, interface: 0, way: None };
            arp.matches(&frame)
        };
        assert!(!frame(&bytes));
        bytes[12..14].copy_from_slice(&[8, 6]);
        assert!(frame(&bytes));
        assert!(!frame(&[]), "what is not there does not match");
        let refused = filter("tcp prot 80").unwrap().err().unwrap().to_string();
        assert!(refused.contains("tcp prot 80") && refused.contains("man pcap-filter"), "{refused}");
    }
}
