//! Name service: the guest's questions go to the host's name servers.
//!
//! Each question gets a socket of its own, and so a port that nobody can guess.
//! When a server does not answer, the next one is asked.

use std::net::{SocketAddr, SocketAddrV4, UdpSocket};
use std::time::{Duration, Instant};

use slab::Slab;

use super::emit::{PROTOCOL_UDP, Route, udp};
use super::link::Link;
use super::outside::Outside;
use super::token::Token;
use crate::poller::Poller;

/// Name servers listen here.
pub(super) const PORT: u16 = 53;

const HEADER: usize = 12;
/// How many questions may be open.
const MOST: usize = 128;
/// How long one server has.
const PATIENCE: Duration = Duration::from_secs(2);

const SERVER_FAILURE: u8 = 2;
const REFUSED: u8 = 5;

/// An open question.
struct Question {
    guest: SocketAddrV4,
    query: Vec<u8>,
    /// Those that have not been asked, the next one last.
    servers: Vec<SocketAddr>,
    /// Where it is open now.
    socket: Option<UdpSocket>,
    since: Instant,
}

impl Question {
    fn is(&self, guest: SocketAddrV4, query: &[u8]) -> bool {
        self.guest == guest && self.query.get(..2) == query.get(..2)
    }
}

/// Open questions.
pub(super) struct Names {
    /// The name server as the guest knows it.
    own: SocketAddrV4,
    questions: Slab<Question>,
}

impl Names {
    pub(super) fn new(own: SocketAddrV4) -> Self {
        Self { own, questions: Slab::new() }
    }

    /// The guest asks. What is not a question is dropped.
    pub(super) fn ask(
        &mut self,
        guest: SocketAddrV4,
        query: &[u8],
        outside: &mut dyn Outside,
        poller: &Poller,
        link: &mut Link,
        now: Instant,
    ) {
        if !is_query(query) {
            return;
        }
        let known = self.questions.iter().find(|(_, q)| q.is(guest, query)).map(|(id, _)| id);
        if let Some(id) = known {
            // It is asked again while the answer is awaited.
            if let Some(socket) = self.questions.get(id).and_then(|q| q.socket.as_ref()) {
                let _ = socket.send(query);
            }
            return;
        }
        self.make_room();
        let mut servers = outside.name_servers();
        servers.reverse();
        let question = Question { guest, query: query.to_vec(), servers, socket: None, since: now };
        let id = self.questions.insert(question);
        self.ask_next(id, outside, poller, link, now);
    }

    fn make_room(&mut self) {
        if self.questions.len() >= MOST
            && let Some(oldest) = self.questions.iter().min_by_key(|(_, q)| q.since).map(|(id, _)| id)
        {
            self.questions.remove(oldest);
        }
    }

    /// Asks the next server; tells of failure if there is none.
    fn ask_next(
        &mut self,
        id: usize,
        outside: &mut dyn Outside,
        poller: &Poller,
        link: &mut Link,
        now: Instant,
    ) {
        let Some(question) = self.questions.get_mut(id) else { return };
        question.since = now;
        while let Some(server) = question.servers.pop() {
            let Ok(socket) = outside.udp(server) else { continue };
            let watched = poller.watch(&socket, Token::Name(id).into()).is_ok();
            if watched && socket.send(&question.query).is_ok() {
                question.socket = Some(socket);
                return;
            }
        }
        let question = self.questions.remove(id);
        self.fail(question.guest, &question.query, SERVER_FAILURE, link);
    }

    /// The guest asks, but may not.
    pub(super) fn refuse(&self, guest: SocketAddrV4, query: &[u8], link: &mut Link) {
        if is_query(query) {
            self.fail(guest, query, REFUSED, link);
        }
    }

    fn fail(&self, guest: SocketAddrV4, query: &[u8], why: u8, link: &mut Link) {
        let mut answer = query.to_vec();
        if let [_, _, flags, code, ..] = answer.as_mut_slice() {
            *flags |= 0x80;
            *code = 0x80 | why;
        }
        self.send(guest, &answer, link);
    }

    fn send(&self, guest: SocketAddrV4, answer: &[u8], link: &mut Link) {
        let route = Route {
            to: link.guest,
            source: *self.own.ip(),
            destination: *guest.ip(),
            protocol: PROTOCOL_UDP,
        };
        link.push_packet(route, &udp(route, self.own.port(), guest.port(), answer));
    }

    /// Passes on the answer to question `id`.
    pub(super) fn ready(
        &mut self,
        id: usize,
        buffer: &mut [u8],
        outside: &mut dyn Outside,
        poller: &Poller,
        link: &mut Link,
        now: Instant,
    ) {
        let Some(question) = self.questions.get(id) else { return };
        let Some(socket) = &question.socket else { return };
        loop {
            match socket.recv(buffer) {
                Ok(length) => {
                    let answer = buffer.get(..length).unwrap_or_default();
                    if is_answer(answer, &question.query) {
                        let guest = question.guest;
                        self.questions.remove(id);
                        return self.send(guest, answer, link);
                    }
                }
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => return,
                Err(_) => return self.ask_next(id, outside, poller, link, now),
            }
        }
    }

    /// Gives up on servers that do not answer.
    pub(super) fn sweep(
        &mut self,
        outside: &mut dyn Outside,
        poller: &Poller,
        link: &mut Link,
        now: Instant,
    ) {
        let late = |q: &Question| now.saturating_duration_since(q.since) >= PATIENCE;
        let ids: Vec<usize> = self.questions.iter().filter(|(_, q)| late(q)).map(|(id, _)| id).collect();
        ids.into_iter().for_each(|id| self.ask_next(id, outside, poller, link, now));
    }

    pub(super) fn is_empty(&self) -> bool {
        self.questions.is_empty()
    }

    pub(super) fn reset(&mut self) {
        self.questions.clear();
    }
}

fn is_query(message: &[u8]) -> bool {
    message.len() >= HEADER && message[2] & 0x80 == 0
}

fn is_answer(message: &[u8], query: &[u8]) -> bool {
    message.len() >= HEADER && message[2] & 0x80 != 0 && message.get(..2) == query.get(..2)
}
