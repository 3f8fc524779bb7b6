//! A server that mail is passed on to, and that answers as it is told: politely, with exceptions, or by a script.
//!
//! What it heard is kept, command by command, and so is each message that it said 250 to.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{getsockopt, setsockopt, sockopt};

use crate::{LOOPBACK, PATIENCE, wait_until};

/// The running server. Its threads end with their connections, or with the test.
pub struct Upstream {
    /// Where it listens.
    pub address: SocketAddr,
    heard: Arc<Mutex<Heard>>,
}

#[derive(Debug, Default)]
struct Heard {
    /// What each connection said, line by line without CRLF, texts of messages left out.
    connections: Vec<Vec<String>>,
    messages: Vec<Message>,
    /// How often the test has told connections to go on.
    told: usize,
}

/// A message that was taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// What MAIL said behind its colon.
    pub sender: String,
    /// What each RCPT said that was accepted, likewise.
    pub recipients: Vec<String>,
    /// The text as it came, dots stuffed, with its last CRLF and without the final dot.
    pub text: Vec<u8>,
}

/// One connection, from the server's side.
pub struct Peer {
    stream: Box<dyn Stream>,
    buffer: Vec<u8>,
    number: usize,
    heard: Arc<Mutex<Heard>>,
}

/// What serves a connection; it is told how many were before.
type Script = dyn Fn(usize, &mut Peer) + Send + Sync;

/// What a connection can be made of.
trait Stream: Read + Write + AsFd + Send {
    fn close(&self);

    /// Whatever is the nearest to a RST that there is.
    fn reset(&self);

    fn until_hung_up(&self) {
        let timeout = PollTimeout::try_from(PATIENCE).unwrap_or(PollTimeout::MAX);
        let _ = poll(&mut [PollFd::new(self.as_fd(), PollFlags::from_bits_retain(nix::libc::POLLRDHUP))], timeout);
    }
}

impl Stream for TcpStream {
    fn close(&self) {
        // One that is to be reset says no word before that.
        if getsockopt(self, sockopt::Linger).is_ok_and(|linger| linger.l_onoff == 0) {
            let _ = self.shutdown(Shutdown::Both);
        }
    }

    fn reset(&self) {
        let linger = nix::libc::linger { l_onoff: 1, l_linger: 0 };
        setsockopt(self, sockopt::Linger, &linger).expect("SO_LINGER");
    }
}

impl Stream for UnixStream {
    fn close(&self) {
        let _ = self.shutdown(Shutdown::Both);
    }

    fn reset(&self) {
        self.close();
    }
}

impl Upstream {
    /// One whose connections are served by this, which is told how many were before; what it leaves is closed.
    pub fn scripted(serve: impl Fn(usize, &mut Peer) + Send + Sync + 'static) -> Self {
        Self::scripted_on(SocketAddr::new(LOOPBACK[0], 0), serve)
    }

    /// The same at this address; port 0 is one that is free.
    pub fn scripted_on(address: SocketAddr, serve: impl Fn(usize, &mut Peer) + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind(address).expect("listening on the loopback interface");
        let address = listener.local_addr().expect("an address");
        let heard = Arc::default();
        serve_all(Arc::clone(&heard), Arc::new(serve), move || {
            let (stream, _) = listener.accept().ok()?;
            stream.set_nodelay(true).ok()?;
            stream.set_read_timeout(Some(PATIENCE)).ok()?;
            Some(Box::new(stream) as Box<dyn Stream>)
        });
        Self { address, heard }
    }

    /// The same at a Unix socket with this path; the address is nobody's.
    pub fn scripted_at(path: &Path, serve: impl Fn(usize, &mut Peer) + Send + Sync + 'static) -> Self {
        let listener = UnixListener::bind(PathBuf::from(path)).expect("listening at a Unix socket");
        let heard = Arc::default();
        serve_all(Arc::clone(&heard), Arc::new(serve), move || {
            let (stream, _) = listener.accept().ok()?;
            stream.set_read_timeout(Some(PATIENCE)).ok()?;
            Some(Box::new(stream) as Box<dyn Stream>)
        });
        Self { address: SocketAddr::new(LOOPBACK[0], 0), heard }
    }

    /// One that takes everything, but for what begins like one of these: then it says what stands beside it. The greeting is
    /// what `""` stands for, the end of a message what `"."` does. A reply of several lines has LF between them. An empty
    /// one is the end of the connection, without a word; `"..."` is silence for ever.
    pub fn answering(answers: &[(&str, &str)]) -> Self {
        let answers = owned(answers);
        Self::scripted(move |_, peer| peer.answer_all(&answers))
    }

    /// The same at this address.
    pub fn answering_on(address: SocketAddr, answers: &[(&str, &str)]) -> Self {
        let answers = owned(answers);
        Self::scripted_on(address, move |_, peer| peer.answer_all(&answers))
    }

    /// One that takes everything.
    pub fn polite() -> Self {
        Self::answering(&[])
    }

    /// What each connection said until now.
    pub fn connections(&self) -> Vec<Vec<String>> {
        lock(&self.heard).connections.clone()
    }

    /// What the only connection said.
    #[track_caller]
    pub fn commands(&self) -> Vec<String> {
        match &self.connections()[..] {
            [only] => only.clone(),
            others => panic!("{} connections: {others:?}", others.len()),
        }
    }

    /// The messages that it said 250 to.
    pub fn messages(&self) -> Vec<Message> {
        lock(&self.heard).messages.clone()
    }

    /// Lets a connection go on that waits for that ([`Peer::until_told`]).
    pub fn tell(&self) {
        lock(&self.heard).told += 1;
    }

    /// Waits until a connection has said a line that begins so.
    #[track_caller]
    pub fn until_heard(&self, beginning: &str) {
        wait_until(beginning, || {
            self.connections().iter().flatten().any(|line| line.starts_with(beginning)).then_some(())
        });
    }
}

fn owned(answers: &[(&str, &str)]) -> Vec<(String, String)> {
    answers.iter().map(|(to, answer)| ((*to).to_owned(), (*answer).to_owned())).collect()
}

fn serve_all(
    heard: Arc<Mutex<Heard>>,
    serve: Arc<Script>,
    mut accept: impl FnMut() -> Option<Box<dyn Stream>> + Send + 'static,
) {
    thread::spawn(move || {
        let mut number = 0;
        while let Some(stream) = accept() {
            lock(&heard).connections.push(Vec::new());
            let (serve, heard) = (Arc::clone(&serve), Arc::clone(&heard));
            thread::spawn(move || {
                let mut peer = Peer { stream, buffer: Vec::new(), number, heard };
                serve(number, &mut peer);
                peer.stream.close();
            });
            number += 1;
        }
    });
}

fn lock(heard: &Mutex<Heard>) -> MutexGuard<'_, Heard> {
    heard.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Peer {
    /// Sends these bytes.
    pub fn send(&mut self, bytes: impl AsRef<[u8]>) {
        // Whoever has gone does not hear it.
        let _ = self.try_send(bytes);
    }

    /// The same; whether there is still somebody to hear them.
    pub fn try_send(&mut self, bytes: impl AsRef<[u8]>) -> bool {
        self.stream.write_all(bytes.as_ref()).is_ok()
    }

    /// Says a reply: lines with LF between them, of which each but the last has its `-`.
    pub fn say(&mut self, reply: &str) {
        self.send(format!("{}\r\n", reply.replace('\n', "\r\n")));
    }

    /// The next command; `None` at the end.
    pub fn line(&mut self) -> Option<String> {
        let line = self.read_line()?;
        let line = String::from_utf8_lossy(&line).trim_end_matches(['\r', '\n']).to_owned();
        lock(&self.heard).connections[self.number].push(line.clone());
        Some(line)
    }

    /// The text of a message, up to its final dot; `None` if it does not come to that.
    pub fn text(&mut self) -> Option<Vec<u8>> {
        let mut text = Vec::new();
        loop {
            let line = self.read_line()?;
            if line == b".\r\n" {
                return Some(text);
            }
            text.extend(line);
        }
    }

    /// Reads so many octets of a text, and no more.
    pub fn some_text(&mut self, octets: usize) {
        while self.buffer.len() < octets && self.fill() {}
        self.buffer.drain(..octets.min(self.buffer.len()));
    }

    /// Waits until the connection is over, whatever still comes.
    pub fn until_gone(&mut self) {
        while self.fill() {
            self.buffer.clear();
        }
    }

    /// Takes note of this among what the connection said, for a test to wait for.
    pub fn note(&mut self, what: &str) {
        lock(&self.heard).connections[self.number].push(what.to_owned());
    }

    /// Waits until the test says so.
    pub fn until_told(&mut self) {
        let heard = Arc::clone(&self.heard);
        wait_until("the test's word", || {
            let told = &mut lock(&heard).told;
            let is_told = *told > 0;
            *told -= usize::from(is_told);
            is_told.then_some(())
        });
    }

    /// Waits until the other end has closed the connection, without reading what comes.
    pub fn until_hung_up(&mut self) {
        self.stream.until_hung_up();
    }

    /// Has the connection broken off with a RST at its end, as by a server that crashed.
    pub fn reset(&mut self) {
        self.stream.reset();
    }

    /// Takes note of a message that is taken.
    pub fn take(&mut self, message: Message) {
        lock(&self.heard).messages.push(message);
    }

    /// Serves the connection politely, with these exceptions.
    pub fn answer_all(&mut self, answers: &[(String, String)]) {
        let polite = |line: &str| match line.get(..4).unwrap_or(line) {
            "" => "220 upstream.example ESMTP",
            "EHLO" | "LHLO" => "250-upstream.example\n250-PIPELINING\n250-SIZE 10000000\n250-8BITMIME\n250 SMTPUTF8",
            "DATA" => "354 Go on",
            "QUIT" => "221 2.0.0 Bye",
            "." => "250 2.0.0 Ok: queued as 4711",
            _ => "250 2.0.0 Ok",
        };
        let exception = |line: &str| {
            let is_meant = |to: &str| if to.is_empty() { line.is_empty() } else { line.starts_with(to) };
            answers.iter().find(|(to, _)| is_meant(to)).map(|(_, answer)| answer.clone())
        };
        let (mut sender, mut recipients) = (String::new(), Vec::new());
        let mut line = String::new();
        loop {
            let answer = exception(&line).unwrap_or_else(|| polite(&line).to_owned());
            match &*answer {
                "" => return,
                "..." => return self.until_gone(),
                answer => self.say(answer),
            }
            let argument = line.split_once(':').map(|(_, argument)| argument.to_owned()).unwrap_or_default();
            match line.get(..4).unwrap_or_default() {
                "MAIL" if answer.starts_with('2') => (sender, recipients) = (argument, Vec::new()),
                "RCPT" if answer.starts_with('2') => recipients.push(argument),
                "RSET" => recipients.clear(),
                "QUIT" => return,
                "DATA" if answer.starts_with("354") => {
                    let Some(text) = self.text() else { return };
                    let answer = exception(".").unwrap_or_else(|| polite(".").to_owned());
                    if answer.starts_with("250") {
                        let recipients = std::mem::take(&mut recipients);
                        self.take(Message { sender: sender.clone(), recipients, text });
                    }
                    match &*answer {
                        "" => return,
                        "..." => return self.until_gone(),
                        answer => self.say(answer),
                    }
                }
                _ => {}
            }
            if answer.starts_with("421") {
                return;
            }
            match self.line() {
                Some(next) => line = next,
                None => return,
            }
        }
    }

    fn read_line(&mut self) -> Option<Vec<u8>> {
        loop {
            if let Some(length) = self.buffer.iter().position(|byte| *byte == b'\n') {
                return Some(self.buffer.drain(..=length).collect());
            }
            if !self.fill() {
                return None;
            }
        }
    }

    /// Waits for more; whether there was some.
    fn fill(&mut self) -> bool {
        let mut room = [0; 64 * 1024];
        loop {
            match self.stream.read(&mut room) {
                Ok(0) => return false,
                Ok(length) => {
                    self.buffer.extend_from_slice(&room[..length]);
                    return true;
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => return false,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Client;

    #[test]
    fn what_is_said_is_kept() {
        let upstream = Upstream::answering(&[("RCPT TO:<b@", "550 5.1.1 No")]);
        let mut client = Client::connect(upstream.address);
        client.expect("220 ");
        for (command, reply) in [
            ("EHLO a", "250-"),
            ("MAIL FROM:<a@a>", "250 "),
            ("RCPT TO:<b@b>", "550 5.1.1 No"),
            ("RCPT TO:<c@c>", "250 "),
            ("DATA", "354 "),
            ("text\r\n..\r\n.", "250 2.0.0 Ok: queued"),
            ("QUIT", "221 "),
        ] {
            let said = client.ask(command);
            assert!(said.starts_with(reply), "{command}: {said}");
        }
        let taken = Message {
            sender: "<a@a>".to_owned(),
            recipients: vec!["<c@c>".to_owned()],
            text: b"text\r\n..\r\n".to_vec(),
        };
        assert_eq!(upstream.messages(), [taken]);
        assert_eq!(upstream.commands().len(), 6);
    }
}
