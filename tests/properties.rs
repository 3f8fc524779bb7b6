//! What must hold for any input, with inputs made up from what matters to SMTP. One that fails is made as short as it can
//! be and shown; write it to a file below fuzz/seeds/, so that tests/corpus.rs knows it from then on.
//!
//! The checks are those of the fuzzer (fuzz/src/): this finds in seconds what is wrong in many inputs, `fuzz/run` in
//! minutes what is wrong in few.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    missing_docs,
    unreachable_pub,
    reason = "a test may panic, and is nobody's interface"
)]

#[allow(dead_code, reason = "only some of the checks have a part that can be given more than bytes")]
#[path = "../fuzz/src/lib.rs"]
mod targets;

use mailrecv::config::{Flags, LogTarget};
use mailrecv::log::{Event, Log};
use mailrecv::smtp::LineEnding;
use proptest::collection::vec;
use proptest::prelude::*;
use targets::conversation::PEER;
use targets::{command, data, letter, log, mboxrd, pieces, proxy, relay, session};

proptest! {
    #![proptest_config(cases(600))]

    /// However a session arrives, the replies, the messages that are delivered and the log are the same; each command
    /// and each message has one well-formed reply.
    #[test]
    fn reads_make_no_difference_to_a_session(
        choice in 0..7_usize,
        sent in words(SMTP, 60),
        lengths in vec(0..30_usize, 0..40),
    ) {
        let ways = [vec![&sent[..]], sent.chunks(1).collect(), pieces::cut(&sent, lengths)];
        session::check_ways(choice, &sent, &ways);
    }

    /// The same when a message comes for certain, so that its recipients and its text are what varies.
    #[test]
    fn reads_make_no_difference_to_a_message(
        choice in prop::sample::select(vec![0, 1, 2, LMTP[0], LMTP[1]]),
        recipients in words(RECIPIENTS, 5),
        text in words(TEXT, 40),
        lengths in vec(0..30_usize, 0..40),
    ) {
        let hello: &[u8] = if LMTP.contains(&choice) { b"LHLO x\r\n" } else { b"EHLO x\r\n" };
        let sent = [hello, b"MAIL FROM:<a@b>\r\n", &*recipients, b"DATA\r\n", &*text, b"\r\n.\r\nNOOP\r\n"].concat();
        let ways = [vec![&sent[..]], sent.chunks(1).collect(), pieces::cut(&sent, lengths)];
        session::check_ways(choice, &sent, &ways);
    }

    /// The same for a message in chunks, some of which are not what they are said to be.
    #[test]
    fn reads_make_no_difference_to_chunks(
        choice in 0..3_usize,
        recipients in words(RECIPIENTS, 3),
        chunks in vec((words(TEXT, 12), prop_oneof![9 => Just(0), 1 => 1..4_usize], 0..8_usize), 1..6),
        person in prop_oneof![9 => Just(false), 1 => Just(true)],
        lengths in vec(0..30_usize, 0..40),
    ) {
        let begin: &[u8] = if person { b"EHLO x\n" } else { b"EHLO x\r\n" };
        let mut sent = [begin, b"MAIL FROM:<a@b>\r\n", &*recipients].concat();
        for (chunk, too_many, kind) in &chunks {
            let last = if *kind == 0 { " LAST" } else { "" };
            sent.extend_from_slice(format!("BDAT {}{last}\r\n", chunk.len() + too_many).as_bytes());
            sent.extend_from_slice(chunk);
            sent.extend_from_slice(match kind { 1 => b"NOOP\r\n", 2 => b"DATA\r\n", _ => b"" });
        }
        sent.extend_from_slice(b"BDAT 0 LAST\r\nNOOP\r\n");
        let ways = [vec![&sent[..]], sent.chunks(1).collect(), pieces::cut(&sent, lengths)];
        session::check_ways(choice, &sent, &ways);
    }

    /// Whatever a message is made of, people see something of it that does nothing to them.
    #[test]
    fn any_message_is_shown(message in words(MIME, 60)) {
        letter::check(&message);
    }

    /// What follows AUTH is in no log, whatever it looks like.
    #[test]
    fn passwords_are_not_logged(choice in 0..5_usize, line in words(COMMAND, 12)) {
        session::check_secrets(choice, &line);
    }
}

proptest! {
    #![proptest_config(cases(4000))]

    /// The text of a message is what the rule about dots and line ends says, and ends where it says.
    #[test]
    fn messages_are_read_by_the_rule(
        person in any::<bool>(),
        max_size in prop_oneof![Just(0), 1..100_u64],
        sent in words(TEXT, 40),
        lengths in vec(0..30_usize, 0..40),
    ) {
        let ending = if person { LineEnding::Lf } else { LineEnding::Crlf };
        data::check_pieces(ending, max_size, &pieces::cut(&sent, lengths));
    }

    /// A command and the address in it mean the same however they are written, and what is kept of them can be shown.
    #[test]
    fn commands_mean_one_thing(choice in any::<u8>(), line in words(COMMAND, 12)) {
        command::check(&[&[choice], &*line].concat());
    }

    /// A proxy's header ends where it ends, and says what a plain reader finds in it.
    #[test]
    fn headers_of_proxies_are_read_plainly(header in words(PROXY, 14)) {
        proxy::check(&header);
    }

    /// What the next server says is a reply of ours or none, and a text goes there as lines.
    #[test]
    fn the_next_server_reads_lines_and_is_read_plainly(said in words(UPSTREAM, 20)) {
        relay::check(&said);
    }

    /// A reader of the mailbox sees one message, with the text that came, and no field of the reader's own.
    #[test]
    fn quoting_can_be_undone(text in words(MAILBOX, 40), lengths in vec(0..30_usize, 0..40)) {
        mboxrd::check_pieces(&pieces::cut(&text, lengths));
    }

    /// What a peer sent can be read off the log, and looks like nothing else there.
    #[test]
    fn untrusted_text_is_harmless(text in words(FORGERY, 40)) {
        log::check(&text);
    }
}

proptest! {
    #![proptest_config(cases(500))]

    /// A log file has one line for each event, which shows no address in brackets but the peer's.
    #[test]
    fn an_event_is_a_line(loghex in any::<bool>(), events in vec((any::<bool>(), words(FORGERY, 10)), 0..10)) {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("log");
        let flags = Flags::parse("s").unwrap();
        let target = LogTarget::File(file.clone());
        let writer = Log::new(target, flags, loghex, PEER.to_owned());
        for (prints, text) in &events {
            writer.event(&if *prints { Event::Print(text) } else { Event::Command(text) });
            // A flag that is not set.
            writer.event(&Event::Letter(text));
        }
        let written = std::fs::read_to_string(&file).unwrap_or_default();
        prop_assert_eq!(written.lines().count(), events.len());
        prop_assert!(written.is_empty() || written.ends_with('\n'));
        for (line, (prints, _)) in written.lines().zip(&events) {
            if *prints {
                // People are better served with their own characters.
                let (_, text) = line.split_once(&format!("]: [{PEER}] ")).expect("the peer in its brackets");
                log::check_printed(text);
            } else {
                log::check_line(line, PEER, loghex);
            }
        }
    }
}

/// As many cases as run in some seconds. Nothing is remembered from run to run: a failure becomes a seed.
fn cases(cases: u32) -> ProptestConfig {
    ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() }
}

/// Bytes that a failure shows in a form that can be read, and copied.
#[derive(Clone)]
struct Text(Vec<u8>);

impl std::ops::Deref for Text {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        &self.0
    }
}

impl std::fmt::Debug for Text {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "b\"{}\"", self.0.escape_ascii())
    }
}

/// Up to `most` of the words in a list that `|` separates, with any bytes and something long among them now and then.
fn words(list: &'static str, most: usize) -> impl Strategy<Value = Text> {
    let words: Vec<Vec<u8>> = list.split('|').map(|word| word.as_bytes().to_vec()).collect();
    let word = prop::sample::select(words);
    let bytes = vec(any::<u8>(), 1..4);
    vec(prop_oneof![20 => word, 2 => bytes, 1 => Just(vec![b'x'; LONG])], 0..most)
        .prop_map(|words| Text(words.concat()))
}

/// The configurations of `session` in which LMTP is spoken.
const LMTP: [usize; 2] = [5, 6];

/// Commands, whole and in parts; as many line ends as verbs, or no line would end.
const SMTP: &str = "\r\n|\r\n|\r\n|\r\n|\r\n|\n|\r|.|\0| |\u{e9}|EHLO x\r\n|LHLO x\r\n|HELO [192.0.2.7]\r\n|EHLO |MAIL FROM:<a@b>\r\n|\
    MAIL FROM:<a@b>\r\n|MAIL FROM:<>\r\n|MAIL FROM:<spam@b> SIZE=21 BODY=8BITMIME\r\n|MAIL FROM:|mail from: a|\
    RCPT TO:<fred>\r\n|RCPT TO:<fred>\r\n|RCPT TO:<near@mx.example>\r\n|RCPT TO:<postmaster>\r\n|RCPT TO:|<\"a b\"@c>|\
    RCPT TO: fred ORCPT=rfc822;x+0Ay\r\r\n|MAIL FROM: root AUTH=<>\r\n|HELO (none) \u{e9}\r\n|\
    <@a,@b:c@d>|[8.8.8.8]|'|DATA\r\n|DATA\r\n|DATA\n|Received: x\r\n|From me\r\n|\r\n.\r\n|\r\n.\r\n|\n.\n|\n.\r\n|\
    BDAT 0\r\n|BDAT 3\r\n|BDAT 20\r\n|BDAT 0 LAST\r\n|BDAT 7 LAST\r\n|BDAT 09 last\r\n|BDAT -1\r\n|BDAT |LAST|\
    RSET\r\n|NOOP\r\n|VRFY fred\r\n|EXPN\r\n|HELP\r\n|QUIT\r\n|FOO\r\n|GET / HTTP/1.1\r\n|PROXY TCP4 192.0.2.7 198.51.100.1 1 25\r\n|\
    \r\n\r\n\0\r\nQUIT\n|AUTH LOGIN\r\n|PASS x\r\n";

/// Commands in pieces, with what peers put where it does not belong.
const COMMAND: &str = "MAIL FROM:|MAIL FROM:<|RCPT TO:|RCPT TO:<|EHLO |HELO |LHLO |QUIT|<|>|<>| |\t|\r|\"|\\|.|@|@d.example|:|,|a|a.b|\
    DOMAIN\\u|@r.example:|[192.0.2.1]|[IPv6:::1]|(none)|'|-| AUTH=<>| SMTPUTF8| SIZE=1| ENVID=x| NOTIFY=NEVER| ORCPT=rfc822;x+0Ay|\u{e9}";

/// Recipients: one in several forms, some that can be taken back, some that cannot, some that fail.
const RECIPIENTS: &str = "RCPT TO:<fred>\r\n|RCPT TO:<FRED@MX.EXAMPLE>\r\n|RCPT TO:<\"fred\"@mx.example>\r\n|\
    RCPT TO:<robot@mx.example>\r\n|RCPT TO:<other@mx.example>\r\n|RCPT TO:<busy@mx.example>\r\n|\
    RCPT TO:<gone@mx.example>\r\n|RCPT TO:<old@mx.example>\r\n|RCPT TO:<postmaster>\r\n";

/// What messages in parts are made of.
const MIME: &str = "\n|\r\n|\n\n|\r| |\t|:|x|=|\0|\x1b[2J|\u{9b}|\u{fc}|===|\u{feff}|\u{202e}|\u{200b}|; |\nSubject: |\nFrom: |\
    =?utf-8?q?=1b=0A?=|=?|?=|=?iso-2022-jp?b?GyRCJDMbKEI=?=|\nContent-Type: text/plain; charset=|utf-7|utf-16|iso-2022-jp|none|\
    \nContent-Type: text/html\n\n|\nContent-Type: multipart/mixed; boundary=x\n\n|\n--x\n|\n--x--\n|\n--y\n|\
    \nContent-Type: multipart/alternative; boundary=\"y\"\n\n|\nContent-Type: a/b; name*0*=utf-8''%1b|\
    \nContent-Disposition: attachment; filename=\"\x07\"\n|\nContent-Transfer-Encoding: base64\n\n|aGVsbG8=|\
    \nContent-Transfer-Encoding: quoted-printable\n\n|=1B=\n|=FC|+AGE-|<script>|</script>|<!--|-->|<a href='|'>|</a>|<li>|\
    <ul>|<pre>|&#27;|&#x202e;|&amp";

/// Where messages end, and where they only seem to.
const TEXT: &str = "\r\n|\r\n|A: b\r\n|\r\n c\r\n|a b\r\n|:|\r|\n|.|.|x|\0|\r\n.|\r\n.\r\n|\n.\n|\r.\r|\r\n..\r\n|\
    Received: x|From |>From |From x\r\n|QUIT";

/// Headers of the PROXY protocol, whole and in parts.
const PROXY: &str = "PROXY |PROXY |TCP4 |TCP6 |UNKNOWN|192.0.2.7 |198.51.100.1 |2001:db8::7 |::ffff:192.0.2.7 |1 |25|0|01|65536|\r\n|\r\n|\
    PROXY TCP4 192.0.2.7 198.51.100.1 1 25\r\n|PROXY TCP6 ::1 ::1 1 25|\r\n\r\n\0\r\nQUIT\n|\r\n\r\n\0\r\nQUIT\n!\x11\0\x0c|\
    \r\n\r\n\0\r\nQUIT\n!!\0$| \0\0\0|!\x11\0\x0c|!!\0$|0123456789abcdef|\x01\x02|\n|\r";

/// What the next server may say, and what a text may have in it.
const UPSTREAM: &str = "250 |250-|354 |450 |500 |501 5.1.3 |530 |550 |550 5.1.1 |554-|599 |2.0.0 |4.2.0 |5.7.1 |SIZE |100|8BITMIME|AUTH PLAIN|Ok|No one|\r\n|\r\n|\r\n|\
    \n|\r|.|..|\r\n.\r\n|\r\n.|\0|\u{fc}|\u{1b}|\u{e9}| |x";

/// What separates messages in a mailbox, what only seems to, and fields that readers keep for themselves.
const MAILBOX: &str = "From |From|Fro|F| |>|>|\n|\n|\n|\r|x|\0|\nFrom |\n>From |Status|\nstatus:|Lines |Content-|Length|:|A: b\n|\rStatus:|\t";

/// What would end quotes or lines, or look like another peer or like an escape of ours.
const FORGERY: &str = "[8.8.8.8]|[192.0.2.7]|[|]|'|\"|<|<0x|<0x41>|\r\n|\n|\r|\0|\u{1b}[2J|\u{7f}|\u{85}|\u{2028}|\u{202e}|\
    \u{e9}|\u{1f600}|MAILRECV[1]: |ERROR: |<a@b>|fred";

/// More than a log line shows of a text, if there are two of them, and more than a command may have.
const LONG: usize = 300;
