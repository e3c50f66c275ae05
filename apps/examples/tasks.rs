//! Sockets for async code, on any executor: here the smallest, `futures_lite::future::block_on`, with one thread for the
//! server's tasks and one for the client's.
//!
//! Run with `cargo run --release -p bywash --example tasks`.

use std::error::Error;
use std::io;
use std::net::SocketAddr;

use bywash::door::Net;
use bywash::door::aio::{TcpListener, TcpStream, UdpSocket};
use bywash::engine::{Engine, StackSettings};
use futures_lite::{AsyncReadExt, AsyncWriteExt, future};

/// Two connections at a time; each answers one question.
async fn serve(listener: &TcpListener) -> io::Result<()> {
    loop {
        let (first, second) = future::try_zip(accept(listener), accept(listener)).await?;
        println!("answered {first} and {second}");
    }
}

async fn accept(listener: &TcpListener) -> io::Result<String> {
    let (mut stream, _peer) = listener.accept().await?;
    let mut question = String::new();
    stream.read_to_string(&mut question).await?;
    stream.write_all(question.to_uppercase().as_bytes()).await?;
    // Finishes our direction; the drop would do, too.
    stream.close().await?;
    Ok(question)
}

async fn reflect(socket: &UdpSocket) -> io::Result<()> {
    let mut data = [0; 1500];
    loop {
        let (len, from) = socket.recv_from(&mut data).await?;
        socket.send_to(&data[..len], from).await?;
    }
}

async fn ask(net: &Net, at: SocketAddr, question: &str) -> io::Result<String> {
    let mut stream = TcpStream::connect(net, at).await?;
    stream.write_all(question.as_bytes()).await?;
    stream.close().await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    Ok(answer)
}

/// Many questions from one thread, two under way at once; then a datagram.
async fn talk(net: Net, at: SocketAddr) -> io::Result<()> {
    for index in 0..10 {
        let (red, blue) = (format!("red {index}"), format!("blue {index}"));
        let answers = future::try_zip(ask(&net, at, &red), ask(&net, at, &blue)).await?;
        assert_eq!(answers, (red.to_uppercase(), blue.to_uppercase()));
    }
    let socket = UdpSocket::bind(&net, SocketAddr::from(([10, 0, 0, 1], 0)))?;
    socket.send_to(b"ping", at).await?;
    let mut data = [0; 64];
    let (len, from) = socket.recv_from(&mut data).await?;
    println!("datagram from {from}: {}", String::from_utf8_lossy(&data[..len]));
    Ok(())
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
    let listener = TcpListener::bind(&server, at)?;
    let socket = UdpSocket::bind(&server, at)?;
    let serving =
        std::thread::spawn(move || future::block_on(future::try_zip(serve(&listener), reflect(&socket))));
    future::block_on(talk(client, at))?;
    running.stop()?;
    println!("server: {}", serving.join().expect("no panic").unwrap_err());
    Ok(())
}
