//! Sockets for threads and tasks: where the stack's bridges meet the door.

use door::Net;
use stack::Bridge;

use super::{Engine, PortIndex};
use crate::stack_node::StackSettings;

impl Engine {
    /// As [`stack`](Self::stack), with a service that joins the stacks with the sockets of threads and tasks; returns the
    /// handle to open them with. `sockets` is each core's limit, 1 to 4,194,304; each costs some 400 bytes at once and its
    /// rings when it is used.
    ///
    /// Calls on the handle wait for the engine to start; when it has stopped, or was dropped, they return errors.
    ///
    /// ```
    /// use std::io::{Read, Write};
    ///
    /// use engine::{Engine, StackSettings};
    ///
    /// let mut engine = Engine::builder();
    /// let (a, b, core) = (engine.port("loop:a"), engine.port("loop:b"), engine.lcore(None));
    /// let host = |address: &str| StackSettings { addresses: vec![address.parse().unwrap()], ..Default::default() };
    /// let client = engine.sockets(&[core], a, &host("10.0.0.1/24"), 16);
    /// let server = engine.sockets(&[core], b, &host("10.0.0.2/24"), 16);
    /// let running = engine.start().unwrap();
    ///
    /// let listener = server.listen("10.0.0.2:7".parse().unwrap()).unwrap();
    /// let mut stream = client.connect("10.0.0.2:7".parse().unwrap()).unwrap();
    /// stream.write_all(b"hello").unwrap();
    /// drop(stream);
    /// let mut text = String::new();
    /// listener.accept().unwrap().0.read_to_string(&mut text).unwrap();
    /// assert_eq!(text, "hello");
    /// running.stop().unwrap();
    /// assert!(listener.accept().is_err());
    /// ```
    ///
    /// # Panics
    /// As `stack`, and if `sockets` is out of range.
    pub fn sockets(
        &mut self,
        lcores: &[usize],
        port: PortIndex,
        settings: &StackSettings,
        sockets: u32,
    ) -> Net {
        let (net, doors) = door::door(&self.bells(lcores), sockets);
        let mut doors = doors.into_iter();
        self.stack(lcores, port, settings, |_| Bridge::new(doors.next().expect("one for each core")));
        net
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use std::io::{ErrorKind, Read, Write};
    use std::time::Duration;

    use super::*;
    use crate::{Burst, Cx, Program, Running};

    fn host(address: &str) -> StackSettings {
        StackSettings { addresses: vec![address.parse().unwrap()], ..StackSettings::default() }
    }

    /// Two hosts, the second on two cores, on threads that share this machine's processors.
    fn start() -> (Running, Net, Net) {
        let mut engine = Engine::builder();
        let (a, b) = (engine.port("loop:a"), engine.port("loop:b"));
        let cores = [engine.lcore(None), engine.lcore(None)];
        let one = engine.sockets(&cores[..1], a, &host("10.0.0.1/24"), 64);
        let two = engine.sockets(&cores, b, &host("10.0.0.2/24"), 64);
        (engine.start().unwrap(), one, two)
    }

    #[test]
    fn threads_talk_through_the_engine_whichever_core_owns_the_flow() {
        let (mut running, client, server) = start();
        let at = "10.0.0.2:7".parse().unwrap();
        let listener = server.listen(at).unwrap();
        let echo = std::thread::spawn(move || {
            for stream in listener.incoming().take(8) {
                let mut stream = stream.unwrap();
                let mut data = Vec::new();
                stream.read_to_end(&mut data).unwrap();
                stream.write_all(&data).unwrap();
            }
        });
        for index in 0..8u8 {
            let mut stream = client.connect(at).unwrap();
            let data = vec![index; 20_000];
            stream.write_all(&data).unwrap();
            stream.shutdown(std::net::Shutdown::Write).unwrap();
            let mut got = Vec::new();
            stream.read_to_end(&mut got).unwrap();
            assert!(got == data);
        }
        echo.join().unwrap();
        let latencies = running.snapshot().latencies();
        assert!(latencies.get("handoff").is_some_and(|handoff| !handoff.is_empty()), "threads slept");
        running.stop().unwrap();
    }

    #[test]
    fn whoever_sleeps_when_the_engine_stops_wakes_with_an_error() {
        let (running, client, server) = start();
        let listener = server.listen("10.0.0.2:7".parse().unwrap()).unwrap();
        let socket = client.bind("10.0.0.1:9".parse().unwrap()).unwrap();
        let accepting = std::thread::spawn(move || listener.accept().unwrap_err().kind());
        let receiving = std::thread::spawn(move || socket.recv_from(&mut [0; 8]).unwrap_err().kind());
        std::thread::sleep(Duration::from_millis(30));
        running.stop().unwrap();
        assert_eq!(accepting.join().unwrap(), ErrorKind::ConnectionAborted);
        assert_eq!(receiving.join().unwrap(), ErrorKind::ConnectionAborted);
        assert!(client.is_stopped() && server.is_stopped());
    }

    /// Dies when told.
    struct Mortal(std::sync::mpsc::Receiver<()>);

    impl Program for Mortal {
        fn receive(&mut self, _port: usize, _burst: &mut Burst, _cx: &mut Cx<'_>) {}
        fn turn(&mut self, _cx: &mut Cx<'_>) -> bool {
            assert!(self.0.try_recv().is_err(), "told to die");
            false
        }
    }

    #[test]
    fn whoever_sleeps_when_a_core_dies_wakes_with_an_error() {
        let mut engine = Engine::builder();
        let (port, far, core) = (engine.port("loop:a"), engine.port("loop:b"), engine.lcore(None));
        let (kill, killed) = std::sync::mpsc::channel();
        let net = engine.sockets(&[core], port, &host("10.0.0.1/24"), 8);
        engine.program(core, Mortal(killed), [far]);
        let running = engine.start().unwrap();
        let listener = net.listen("10.0.0.1:7".parse().unwrap()).unwrap();
        let accepting = std::thread::spawn(move || listener.accept().unwrap_err().kind());
        std::thread::sleep(Duration::from_millis(30));
        kill.send(()).unwrap();
        assert_eq!(accepting.join().unwrap(), ErrorKind::ConnectionAborted);
        // The stack is dropped on its way out of the thread, a little before that ends.
        while !running.has_died() {
            std::thread::yield_now();
        }
        assert!(running.stop().is_err());
    }
}
