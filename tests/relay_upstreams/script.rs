//! An upstream that does by the book what nobody told it to do otherwise, stage by stage.

use testkit::upstream::{Message, Peer, Upstream};

/// What it does at one stage, in place of what it should.
#[derive(Debug, Clone)]
pub enum Act {
    /// Says this.
    Say(Vec<u8>),
    /// Says this, a byte at a time.
    Spell(Vec<u8>),
    /// Says this and closes the connection.
    Close(Vec<u8>),
    /// Breaks the connection off.
    Reset,
    /// Says nothing more, and reads nothing more either.
    Silence,
    /// Says this again and again, as long as somebody takes it.
    Endless(Vec<u8>),
    /// Of the text: reads so many bytes and closes the connection.
    CloseAfter(usize),
    /// The same, and breaks it off.
    ResetAfter(usize),
}

/// Where it does something: `CONNECT`, a verb, `TEXT` while the text comes, `.` behind it.
pub type Stage = &'static str;

/// Starts one. Each text that comes to its end is among its messages, whatever is said to that.
pub fn start(acts: &[(Stage, Act)]) -> Upstream {
    let acts = acts.to_vec();
    Upstream::scripted(move |_, peer| {
        let _ = serve(peer, &acts);
    })
}

/// One connection; `None` when it is over.
fn serve(peer: &mut Peer, acts: &[(Stage, Act)]) -> Option<()> {
    let act = |stage: &str| acts.iter().find(|(at, _)| *at == stage).map(|(_, act)| act);
    perform(peer, act("CONNECT"), b"220 upstream.example ESMTP\r\n")?;
    loop {
        let command = peer.line()?;
        let verb = command.split([' ', ':']).next().unwrap_or_default().to_ascii_uppercase();
        let proper: &[u8] = match &*verb {
            "EHLO" | "LHLO" => EHLO,
            "DATA" => b"354 Go ahead\r\n",
            "QUIT" => b"221 2.0.0 Bye\r\n",
            _ => b"250 2.0.0 Ok\r\n",
        };
        perform(peer, act(&verb), proper)?;
        let goes_on = !matches!(act("DATA"), Some(Act::Say(said)) if !said.starts_with(b"354"));
        if verb == "DATA" && goes_on {
            if let Some(Act::CloseAfter(length) | Act::ResetAfter(length)) = act("TEXT") {
                peer.some_text(*length);
                if matches!(act("TEXT"), Some(Act::ResetAfter(_))) {
                    peer.reset();
                }
                return None;
            }
            perform(peer, act("TEXT"), b"")?;
            let text = peer.text()?;
            peer.take(Message { sender: String::new(), recipients: Vec::new(), text });
            perform(peer, act("."), TAKEN)?;
        }
        if verb == "QUIT" {
            return None;
        }
    }
}

fn perform(peer: &mut Peer, act: Option<&Act>, proper: &[u8]) -> Option<()> {
    match act {
        None => peer.try_send(proper).then_some(()),
        Some(Act::Say(said)) => peer.try_send(said).then_some(()),
        Some(Act::Spell(said)) => said.iter().all(|byte| peer.try_send([*byte])).then_some(()),
        Some(Act::Close(said)) => {
            peer.send(said);
            None
        }
        Some(Act::Reset) => {
            peer.reset();
            None
        }
        Some(Act::Silence) => {
            peer.until_hung_up();
            None
        }
        Some(Act::Endless(said)) => loop {
            peer.try_send(said).then_some(())?;
        },
        Some(Act::CloseAfter(_) | Act::ResetAfter(_)) => None,
    }
}

/// With all extensions that make a difference.
const EHLO: &[u8] = b"250-upstream.example\r\n250-SIZE 50000000\r\n250-PIPELINING\r\n250-8BITMIME\r\n250-SMTPUTF8\r\n\
    250 ENHANCEDSTATUSCODES\r\n";

/// Its answer to a message.
pub const TAKEN: &[u8] = b"250 2.0.0 Taken\r\n";
