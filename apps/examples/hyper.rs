//! A hyper HTTP/1 server on our sockets: feature `tokio` of `door` gives them Tokio's traits, and Tokio's runtime, which knows
//! nothing of the engine, runs the tasks.
//!
//! Run with `cargo run --release -p bywash --example hyper`.

use std::convert::Infallible;
use std::error::Error;
use std::io::{Read, Write};
use std::net::SocketAddr;

use bywash::door::{Net, TcpStream, aio};
use bywash::engine::{Engine, StackSettings};
use hyper::service::service_fn;
use hyper::{Request, Response, body, server::conn::http1};
use hyper_util::rt::TokioIo;

async fn hello(request: Request<body::Incoming>) -> Result<Response<String>, Infallible> {
    Ok(Response::new(format!("hello from {}\n", request.uri().path())))
}

/// One task a connection; ends when the engine stops.
async fn serve(listener: aio::TcpListener) -> std::io::Result<()> {
    loop {
        let (stream, peer) = listener.accept().await?;
        tokio::task::spawn_local(async move {
            let serving = http1::Builder::new().serve_connection(TokioIo::new(stream), service_fn(hello));
            if let Err(error) = serving.await {
                println!("{peer}: {error}");
            }
        });
    }
}

/// The client is a thread. Keep-alive: several requests on one connection.
fn get(net: &Net, at: SocketAddr, paths: &[&str]) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(net, at)?;
    for (index, path) in paths.iter().enumerate() {
        let connection = if index + 1 == paths.len() { "close" } else { "keep-alive" };
        write!(stream, "GET {path} HTTP/1.1\r\nHost: {at}\r\nConnection: {connection}\r\n\r\n")?;
    }
    let mut answers = String::new();
    stream.read_to_string(&mut answers)?;
    Ok(answers)
}

fn main() -> Result<(), Box<dyn Error>> {
    let mut engine = Engine::builder();
    let (near, far, core) = (engine.port("loop:a"), engine.port("loop:b"), engine.lcore(None));
    let host =
        |address: &str| StackSettings { addresses: vec![address.parse().unwrap()], ..Default::default() };
    let client = engine.sockets(&[core], near, &host("10.0.0.1/24"), 64);
    let server = engine.sockets(&[core], far, &host("10.0.0.2/24"), 64);
    let running = engine.start()?;

    let at = "10.0.0.2:80".parse()?;
    let listener = aio::TcpListener::bind(&server, at)?;
    let serving = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
        tokio::task::LocalSet::new().block_on(&runtime, serve(listener))
    });
    let answers = get(&client, at, &["/one", "/two", "/three"])?;
    print!("{answers}");
    assert_eq!(answers.matches("HTTP/1.1 200 OK").count(), 3);
    assert!(answers.contains("hello from /three"));
    running.stop()?;
    println!("server: {}", serving.join().expect("no panic").unwrap_err());
    Ok(())
}
