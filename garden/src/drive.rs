//! Holds sessions with a running server, and collects what it did with them.

use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Result;

use crate::case::{Case, Part, Placeholder, TOKEN_LENGTH, Unit};
use crate::compare::text::find;
use crate::observation::{Event, Message, Observation, Patience};
use crate::session::{self, Filling, Hello, Waits};

/// How long to wait before a queue is checked again.
const BETWEEN_LOOKS: Duration = Duration::from_millis(20);

/// A running server, asked in one role: to deliver, or to pass mail on.
pub trait Server {
    /// Its name in reports.
    fn name(&self) -> &str;

    /// Where it listens.
    fn address(&self) -> SocketAddr;

    /// How it has to be greeted.
    fn hello(&self) -> Hello;

    /// The line with which to log in, if it requires that.
    fn login(&self) -> Option<String>;

    /// What placeholders stand for in a session with this token.
    fn filling(&self, token: &str) -> Filling;

    /// What it has delivered or passed on since the last call.
    ///
    /// # Errors
    ///
    /// Mailboxes that cannot be read.
    fn take_messages(&mut self) -> Result<Vec<Message>>;

    /// What it has logged since the last call.
    fn take_log(&mut self) -> Vec<String>;

    /// Whether it has nothing more to deliver or to pass on.
    ///
    /// # Errors
    ///
    /// A queue that cannot be looked at.
    fn is_drained(&mut self) -> Result<bool>;

    /// What has ended of the processes that run beside it since it was started, and how; `None` if nothing has.
    fn ended(&mut self) -> Option<String>;

    /// Starts it again, with what runs beside it.
    ///
    /// # Errors
    ///
    /// It does not come back.
    fn restart(&mut self) -> Result<()>;
}

/// Holds a session for each of these cases, one after another, and returns an observation of each. Deliveries are
/// collected once, when the queue is empty.
///
/// # Errors
///
/// Our own faults, and a server that does not come back after it died.
pub fn hold(server: &mut dyn Server, cases: &[Case], patience: Patience) -> Result<Vec<Observation>> {
    // What ended, and what came, behind earlier sessions does not belong to these.
    let ended_before = server.ended();
    if ended_before.is_some() {
        server.restart()?;
    }
    server.take_messages()?;
    server.take_log();
    let mut observations: Vec<Observation> = Vec::with_capacity(cases.len());
    // The first session since the server was started.
    let mut first = 0;
    for case in cases {
        let observation = hold_one(server, case, patience)?;
        let is_alive = observation.is_alive;
        observations.push(observation);
        note_ended(server, &mut observations[first..]);
        if !is_alive || server.ended().is_some() {
            server.restart()?;
            first = observations.len();
        }
    }
    let is_drained = wait_until_drained(server, patience.drained)?;
    note_ended(server, &mut observations[first..]);
    let messages = server.take_messages()?;
    for observation in &mut observations {
        observation.is_drained = is_drained;
        observation.messages = messages
            .iter()
            .filter(|message| find(&message.octets, observation.token.as_bytes()).is_some())
            .cloned()
            .collect();
    }
    if let Some(first) = observations.first_mut() {
        first.log.splice(..0, ended_before);
    }
    // What is logged after the last session belongs to one of them, and nobody can tell to which.
    if let Some(last) = observations.last_mut() {
        last.log.extend(server.take_log());
    }
    // Otherwise all later sessions would wait for what stays in its queue.
    if !is_drained {
        server.restart()?;
    }
    Ok(observations)
}

/// Notes what has ended beside the server in all sessions since it was started: it may have ended some time after what
/// it ended of. Which session that was is seen when each is held again.
fn note_ended(server: &mut dyn Server, observations: &mut [Observation]) {
    let ended = server.ended();
    for observation in observations {
        observation.ended.clone_from(&ended);
    }
}

fn hold_one(server: &mut dyn Server, case: &Case, patience: Patience) -> Result<Observation> {
    let token = new_token();
    let (adapted, origins) = session::adapt(case, server.hello(), server.login().as_deref());
    let filling = server.filling(&token);
    let mut transcript = match TcpStream::connect_timeout(&server.address(), patience.reply) {
        Ok(stream) => session::hold(stream, &adapted, &filling, &Waits::of(&adapted, patience.reply), &mut |_| {})?,
        Err(_) => vec![Event::Closed],
    };
    for event in &mut transcript {
        if let Event::Reply(reply) = event {
            reply.unit = reply.unit.and_then(|unit| origins.get(unit).copied());
        }
    }
    // A server that said goodbye is alive.
    let said_goodbye = matches!(transcript.iter().rev().nth(1), Some(Event::Reply(reply)) if reply.code == 221);
    Ok(Observation {
        case: case.name.clone(),
        server: server.name().to_owned(),
        token,
        filled: Placeholder::ALL
            .into_iter()
            .filter(|placeholder| *placeholder != Placeholder::Token)
            .map(|placeholder| (placeholder.text().to_owned(), filling.value(placeholder).to_owned()))
            .collect(),
        transcript,
        messages: Vec::new(),
        log: server.take_log(),
        is_alive: said_goodbye || is_alive(server.address(), patience.reply),
        ended: None,
        is_drained: false,
    })
}

/// Whether it greets.
pub fn is_alive(address: SocketAddr, patience: Duration) -> bool {
    let Ok(stream) = TcpStream::connect_timeout(&address, patience) else { return false };
    let quit = Unit::Send { part: Part::Quit, octets: b"QUIT\r\n".to_vec() };
    let case = Case { name: String::new(), units: vec![quit] };
    let events = session::hold(stream, &case, &Filling::default(), &Waits::of(&case, patience), &mut |_| {});
    events.is_ok_and(|events| matches!(events.first(), Some(Event::Reply(reply)) if reply.code == 220))
}

/// Waits until nothing is left to deliver or to pass on. This has to be seen twice in a row, because a message may be
/// between two queues. If something has ended beside the server, what is left may stay, and is not waited for.
fn wait_until_drained(server: &mut dyn Server, patience: Duration) -> Result<bool> {
    let end = Instant::now() + patience;
    let mut looks = 0;
    while looks < 2 {
        if server.ended().is_some() {
            return Ok(false);
        }
        looks = if server.is_drained()? { looks + 1 } else { 0 };
        if looks < 2 {
            if Instant::now() >= end {
                return Ok(false);
            }
            thread::sleep(BETWEEN_LOOKS);
        }
    }
    Ok(true)
}

/// A word that no other session of this process has, and that sessions of other processes hardly have. All have the
/// same length, so that none is the beginning of another.
fn new_token() -> String {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    const LETTERS: &[u8] = b"0123456789abcdefghijklmnopqrstuvwxyz";
    let mut number = (u64::from(std::process::id() % 8000) << 28) + NEXT.fetch_add(1, Ordering::Relaxed);
    let mut token = vec![b'g'; TOKEN_LENGTH];
    for place in token.iter_mut().skip(1).rev() {
        let digit = usize::try_from(number % 36).unwrap_or_default();
        (*place, number) = (LETTERS[digit], number / 36);
    }
    String::from_utf8_lossy(&token).into_owned()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use std::io::{BufRead, BufReader, Write};
    use std::net::TcpListener;

    use super::*;
    use crate::hop::{Answers, Hop};

    /// The next hop in the role of a server, which has everything at once; it may have died.
    struct Straight {
        hop: Hop,
        /// An address where nobody listens, until it is started again.
        died: Option<SocketAddr>,
        restarts: usize,
        looks_until_drained: usize,
        /// What ended beside it.
        ended: Option<String>,
        /// After how many more looks at what it has logged that ends.
        ends_after: Option<usize>,
        /// Whether that ends when its queue is looked at.
        ends_in_queue: bool,
    }

    impl Straight {
        fn new() -> Self {
            let hop = Hop::start(([127, 0, 0, 1], 0).into(), Answers::default()).unwrap();
            Self {
                hop,
                died: None,
                restarts: 0,
                looks_until_drained: 0,
                ended: None,
                ends_after: None,
                ends_in_queue: false,
            }
        }
    }

    impl Server for Straight {
        fn name(&self) -> &str {
            "straight"
        }
        fn address(&self) -> SocketAddr {
            self.died.unwrap_or_else(|| self.hop.address())
        }
        fn hello(&self) -> Hello {
            Hello::AsItIs
        }
        fn login(&self) -> Option<String> {
            None
        }
        fn filling(&self, token: &str) -> Filling {
            Filling { token: token.into(), ..Filling::default() }
        }
        fn take_messages(&mut self) -> Result<Vec<Message>> {
            Ok(self.hop.take())
        }
        fn take_log(&mut self) -> Vec<String> {
            self.ends_after = match self.ends_after {
                Some(0) => {
                    self.ended = ended();
                    None
                }
                left => left.map(|looks| looks - 1),
            };
            Vec::new()
        }
        fn is_drained(&mut self) -> Result<bool> {
            if self.ends_in_queue {
                self.ended = ended();
            }
            self.looks_until_drained = self.looks_until_drained.saturating_sub(1);
            Ok(self.looks_until_drained == 0)
        }
        fn ended(&mut self) -> Option<String> {
            self.ended.clone()
        }
        fn restart(&mut self) -> Result<()> {
            (self.died, self.ended, self.restarts) = (None, None, self.restarts + 1);
            Ok(())
        }
    }

    fn ended() -> Option<String> {
        Some("`queue` ended: exit status 3".into())
    }

    const PATIENCE: Patience = Patience { reply: Duration::from_secs(30), drained: Duration::from_secs(30) };

    fn send(part: Part, octets: &str) -> Unit {
        Unit::Send { part, octets: octets.into() }
    }

    fn a_message() -> Case {
        let units = vec![
            send(Part::Mail, "HELO me\r\nMAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\nDATA\r\n"),
            send(Part::Body, "\r\n__TOKEN__\r\n.\r\n"),
            send(Part::Quit, "QUIT\r\n"),
        ];
        Case { name: "a-message".into(), units }
    }

    #[test]
    fn each_session_has_its_own_messages() {
        let observations = hold(&mut Straight::new(), &[a_message(), a_message()], PATIENCE).unwrap();
        assert_ne!(observations[0].token, observations[1].token);
        for observation in observations {
            let octets = format!("\r\n{}\r\n.\r\n", observation.token).into_bytes();
            assert!(matches!(&observation.messages[..], [message] if message.octets == octets), "{observation:?}");
            assert!(observation.is_alive && observation.is_drained);
        }
    }

    #[test]
    fn a_server_that_died_is_started_again() {
        let mut server = Straight::new();
        let nobody = TcpListener::bind(("127.0.0.1", 0)).unwrap().local_addr().unwrap();
        server.died = Some(nobody);
        let observations = hold(&mut server, &[a_message(), a_message()], PATIENCE).unwrap();
        assert_eq!((observations[0].is_alive, &observations[0].transcript[..]), (false, &[Event::Closed][..]));
        assert_eq!((observations[1].is_alive, observations[1].messages.len(), server.restarts), (true, 1, 1));
    }

    /// What is noted of each of three sessions, and how often the server was started again.
    fn ended_in(mut server: Straight) -> (Vec<bool>, usize) {
        let observations = hold(&mut server, &[a_message(), a_message(), a_message()], PATIENCE).unwrap();
        let ended = observations.iter().map(|observation| {
            assert!(observation.ended.is_none() || observation.ended == ended());
            observation.ended.is_some()
        });
        (ended.collect(), server.restarts)
    }

    #[test]
    fn what_ends_beside_a_server_is_noted_and_started_again_with_it() {
        // The log is taken once before the first session, and behind each.
        let ends_after = |looks| Straight { ends_after: Some(looks), ..Straight::new() };
        assert_eq!(ended_in(Straight::new()), (vec![false, false, false], 0));
        assert_eq!(ended_in(ends_after(1)), (vec![true, false, false], 1));
        assert_eq!(ended_in(ends_after(2)), (vec![true, true, false], 1));
        assert_eq!(ended_in(ends_after(3)), (vec![true, true, true], 1));
    }

    #[test]
    fn what_ended_before_is_told_in_the_log() {
        let mut server = Straight::new();
        server.ended = ended();
        let observations = hold(&mut server, &[a_message(), a_message()], PATIENCE).unwrap();
        assert_eq!(observations[0].log, ["`queue` ended: exit status 3"]);
        assert!(observations.iter().all(|observation| observation.ended.is_none() && observation.is_drained));
        assert_eq!((observations[1].log.len(), server.restarts), (0, 1));
    }

    #[test]
    fn a_queue_is_waited_for() {
        let mut server = Straight::new();
        server.looks_until_drained = 5;
        assert!(hold(&mut server, &[a_message()], PATIENCE).unwrap()[0].is_drained);
        assert_eq!(server.restarts, 0);
        server.looks_until_drained = usize::MAX;
        let patience = Patience { drained: Duration::from_millis(50), ..PATIENCE };
        assert!(!hold(&mut server, &[a_message()], patience).unwrap()[0].is_drained);
        assert_eq!(server.restarts, 1);
        // Where what empties it has ended, there is nothing to wait for.
        let mut server = Straight { looks_until_drained: usize::MAX, ends_in_queue: true, ..Straight::new() };
        let patience = Patience { drained: Duration::from_secs(3600), ..PATIENCE };
        let observation = hold(&mut server, &[a_message()], patience).unwrap().remove(0);
        assert_eq!((observation.is_drained, observation.ended.is_some(), server.restarts), (false, true, 1));
    }

    #[test]
    fn one_that_closes_and_still_greets_is_alive() {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let address = listener.local_addr().unwrap();
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let _ = (&stream).write_all(b"220 hello\r\n");
                let _ = BufReader::new(stream).read_line(&mut String::new());
            }
        });
        let mut server = Straight::new();
        server.died = Some(address);
        let observations = hold(&mut server, &[a_message()], PATIENCE).unwrap();
        assert_eq!((observations[0].is_alive, server.restarts), (true, 0));
    }
}
