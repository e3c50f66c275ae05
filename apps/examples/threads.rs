//! Sockets for threads: an echo server and its clients as with `std::net`, but for the handle that says which engine.
//!
//! Run with `cargo run --release -p bywash --example threads`.

use std::error::Error;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr};
use std::time::{Duration, Instant};

use bywash::door::{Net, TcpListener, TcpStream};
use bywash::engine::{Engine, StackSettings};

const CLIENTS: usize = 4;
const BYTES: usize = 1 << 20;

/// Two threads accept from one listener; each connection is served where it was accepted.
fn serve(net: &Net, at: SocketAddr) -> std::io::Result<()> {
    let listener = TcpListener::bind(net, at)?;
    for _ in 0..2 {
        let listener = listener.try_clone()?;
        std::thread::spawn(move || {
            // Ends with an error when the engine stops.
            while let Ok((mut stream, peer)) = listener.accept() {
                match echo(&mut stream) {
                    Ok(bytes) => println!("{peer}: {bytes} bytes"),
                    Err(error) => println!("{peer}: {error}"),
                }
            }
        });
    }
    Ok(())
}

fn echo(stream: &mut TcpStream) -> std::io::Result<usize> {
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    let (mut buffer, mut bytes) = ([0; 16 << 10], 0);
    loop {
        match stream.read(&mut buffer)? {
            0 => return Ok(bytes),
            count => {
                stream.write_all(&buffer[..count])?;
                bytes += count;
            }
        }
    }
}

/// Sends on one thread and receives on another, as both sides' buffers together hold less than all.
fn ask(net: &Net, at: SocketAddr) -> std::io::Result<()> {
    let stream = TcpStream::connect_timeout(net, at, Duration::from_secs(5))?;
    stream.set_nodelay(true)?;
    let data: Vec<u8> = (0..=255).cycle().take(BYTES).collect();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            (&stream).write_all(&data)?;
            stream.shutdown(Shutdown::Write)
        });
        let mut answer = Vec::with_capacity(BYTES);
        (&stream).read_to_end(&mut answer)?;
        assert!(answer == data, "the answer differs");
        Ok::<_, std::io::Error>(())
    })
}

fn main() -> Result<(), Box<dyn Error>> {
    let mut engine = Engine::builder();
    let (near, far, core) = (engine.port("loop:a"), engine.port("loop:b"), engine.lcore(None));
    let host =
        |address: &str| StackSettings { addresses: vec![address.parse().unwrap()], ..Default::default() };
    let client = engine.sockets(&[core], near, &host("10.0.0.1/24"), 64);
    let server = engine.sockets(&[core], far, &host("10.0.0.2/24"), 64);
    let running = engine.start()?;

    let at = "10.0.0.2:7".parse()?;
    serve(&server, at)?;
    let started = Instant::now();
    let asking: Vec<_> = (0..CLIENTS)
        .map(|_| {
            let client = client.clone();
            std::thread::spawn(move || ask(&client, at))
        })
        .collect();
    for thread in asking {
        thread.join().expect("no client panics")?;
    }
    println!("{CLIENTS} clients, {BYTES} bytes each there and back, in {:?}", started.elapsed());
    running.stop()?;
    Ok(())
}
