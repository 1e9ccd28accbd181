//! The network of a guest: out to a server of the host, in by a forwarded
//! port, and not at all if that is what was asked for.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use libtest_mimic::{Failed, Trial};

use crate::guests::{AMD64, Debian, engine};
use crate::process::{LIMIT, Run};
use crate::systems::needing;

pub(crate) fn tests() -> Vec<Trial> {
    vec![
        needing("a_guest_reaches_the_host_and_is_reached", &AMD64, both_ways),
        needing("a_restricted_guest_reaches_nothing", &AMD64, restricted),
    ]
}

/// A web server at the loopback; its port.
pub(crate) fn web_server(page: &'static str) -> std::io::Result<u16> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let port = listener.local_addr()?.port();
    thread::spawn(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            let _ = stream.read(&mut [0; 4096]);
            let _ = write!(stream, "HTTP/1.0 200 OK\r\nContent-Length: {}\r\n\r\n{page}", page.len());
        }
    });
    Ok(port)
}

/// A port at which nobody listens.
pub(crate) fn free_port() -> std::io::Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

/// A guest on `net` that runs `command`. It does not try whether timer
/// interrupts come in time: on a busy host they may not.
fn start(net: &str, command: &str) -> Result<Run, Failed> {
    let engine = engine();
    let how = ["demo", "--engine", &engine, "--cmdline", "no_timer_check"];
    Run::start(how.into_iter().chain(["--net", net, "--exec", command]))
}

fn both_ways(_: &Debian) -> Result<(), Failed> {
    let (web, door) = (web_server("a page of the host")?, free_port()?);
    let net = format!("user,forward=tcp:{door}:7777");
    let command = format!(
        "ip address show eth0; cat /etc/resolv.conf; (echo GET /; sleep 1) | nc 10.0.2.2 {web}; \
         ping -c 1 -W 5 10.0.2.2; echo listening; nc -l -p 7777 -e cat; echo served"
    );
    let mut run = start(&net, &command)?;
    for words in ["inet 10.0.2.15/24", "nameserver 10.0.2.3", "a page of the host", "1 packets received"] {
        run.wait_for(words)?;
    }
    run.wait_for("listening")?;
    let answer = call(door, b"by a forwarded port")?;
    if answer != b"by a forwarded port" {
        return Err(run.complaint(&format!("the guest answered {answer:?}")));
    }
    run.wait_for("served")?;
    run.finish_with(0)
}

/// Calls until the guest takes the call, and has bytes echoed.
fn call(port: u16, bytes: &[u8]) -> std::io::Result<Vec<u8>> {
    let end = Instant::now() + LIMIT;
    loop {
        match echo(port, bytes) {
            Ok(answer) if answer.len() == bytes.len() => return Ok(answer),
            _ if Instant::now() < end => thread::sleep(Duration::from_millis(200)),
            other => return other,
        }
    }
}

fn echo(port: u16, bytes: &[u8]) -> std::io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.set_read_timeout(Some(LIMIT))?;
    stream.write_all(bytes)?;
    let mut answer = vec![0; bytes.len()];
    stream.read_exact(&mut answer)?;
    Ok(answer)
}

fn restricted(_: &Debian) -> Result<(), Failed> {
    let web = web_server("a page of the host")?;
    let command = format!("(echo GET /; sleep 1) | nc 10.0.2.2 {web} || echo refused; ip address show eth0");
    let mut run = start("user,restrict", &command)?;
    run.wait_for("refused")?;
    run.wait_for("inet 10.0.2.15/24")?;
    run.finish_with(0)?;
    if run.said.contains("a page of the host") {
        return Err(run.complaint("the guest reached the host"));
    }
    Ok(())
}
