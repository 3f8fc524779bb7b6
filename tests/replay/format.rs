//! What was written is read as the same, whatever it is, and what is read never hurts.

use mailrecv::config::Protocol;
use mailrecv::peer::Peer;
use mailrecv::smtp::reply::{Reply, Status};
use mailrecv::transcript::{About, Entry, Header, Octets, Ruled, Transcript};
use proptest::collection::vec;
use proptest::prelude::*;

use crate::support::CONFIG;
use crate::{assert_same, scratch, transcript};

/// Octets with secrets and gaps in them.
fn octets() -> impl Strategy<Value = Octets> {
    let piece = prop_oneof![
        4 => vec(any::<u8>(), 0..40).prop_map(Some),
        2 => Just(Some(b"\r\n".to_vec())),
        1 => Just(Some(b"\\".to_vec())),
        1 => Just(None),
    ];
    vec((piece, 0..2_u64, 0..1_000_000_u64), 0..6).prop_map(|pieces| {
        pieces.into_iter().fold(Octets::default(), |octets, (piece, is_gap, gap)| match piece {
            Some(shown) => octets.and(&shown),
            None if is_gap == 0 => octets.and_secret(),
            None => octets.and_left_out(gap),
        })
    })
}

fn reply() -> impl Strategy<Value = Reply> {
    let status = proptest::option::of((2..6_u16, 0..1000_u16, 0..1000_u16).prop_map(|(a, b, c)| Status(a, b, c)));
    (100..1000_u16, status, any::<String>(), any::<bool>())
        .prop_map(|(code, status, text, is_our_fault)| Reply::passed_on(code, status, text, is_our_fault))
}

fn entry() -> impl Strategy<Value = Entry> {
    let about = prop_oneof![Just(About::Peer), Just(About::Sender), Just(About::Recipient)];
    prop_oneof![
        octets().prop_map(Entry::Said),
        octets().prop_map(Entry::Text),
        any::<String>().prop_map(Entry::Reply),
        (about, any::<String>(), proptest::option::of(any::<String>()))
            .prop_map(|(about, verdict, by)| Entry::Ruled(Ruled { about, verdict, by })),
        reply().prop_map(Entry::Asked),
        any::<String>().prop_map(|id| Entry::Delivered(id, None)),
        (any::<String>(), reply()).prop_map(|(id, words)| {
            Entry::Delivered(id, Some(Reply::passed_on(words.code, words.status, words.text.into_owned(), false)))
        }),
        reply().prop_map(Entry::NotDelivered),
        any::<String>().prop_map(Entry::Secured),
        any::<String>().prop_map(|user| Entry::Authenticated(user, "LOGIN".to_owned())),
    ]
}

fn header() -> impl Strategy<Value = Header> {
    let peer = prop_oneof![Just("192.0.2.7=mail.example.net"), Just("2001:db8::7"), Just("local=0"), Just("local"),];
    (any::<String>(), any::<bool>(), any::<bool>(), peer, any::<bool>()).prop_map(
        |(time, is_lmtp, has_proxy, peer, is_nameless)| {
            let peer = Peer::parse(peer).unwrap();
            Header {
                time,
                protocol: if is_lmtp { Protocol::Lmtp } else { Protocol::Smtp },
                proxy: has_proxy.then(|| "127.0.0.1".parse().unwrap()),
                is_nameless: is_nameless && peer.hostname.is_none(),
                peer,
            }
        },
    )
}

fn written(header: &Header, entries: &[Entry]) -> Vec<u8> {
    let mut text = Vec::new();
    header.write(&mut text);
    entries.iter().for_each(|entry| entry.write(&mut text));
    text
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, cases: 2000, ..ProptestConfig::default() })]

    #[test]
    fn what_is_written_is_read(header in header(), entries in vec(entry(), 0..20), end in any::<String>()) {
        let entries: Vec<Entry> = entries.into_iter().chain([Entry::Ended(end)]).collect();
        let text = written(&header, &entries);
        prop_assert!(text.iter().all(|octet| matches!(octet, b' '..=b'~' | b'\n' | b'\t')));
        let read = Transcript::parse(&text).unwrap().unwrap();
        prop_assert!(read.is_whole());
        prop_assert_eq!(read.header, header);
        prop_assert_eq!(read.entries.into_iter().map(|(_, entry)| entry).collect::<Vec<_>>(), entries);
    }

    /// Changed, cut or put together from pieces: it is read, or it is told with a line that there is.
    #[test]
    fn what_was_tampered_with_is_read_or_told(
        header in header(),
        entries in vec(entry(), 0..10),
        changes in vec((any::<prop::sample::Index>(), any::<u8>()), 0..5),
        cut in any::<prop::sample::Index>(),
    ) {
        let mut text = written(&header, &entries);
        for (at, octet) in changes {
            let at = at.index(text.len());
            text[at] = octet;
        }
        text.truncate(cut.index(text.len() + 1));
        if let Err(malformed) = Transcript::parse(&text) {
            // That a file is no transcript is told of a first line without an end, too.
            let lines = text.iter().filter(|octet| **octet == b'\n').count().max(1);
            prop_assert!((1..=lines).contains(&malformed.line));
            prop_assert!(!malformed.message.is_empty());
        }
    }

    #[test]
    fn anything_is_read_or_told(text in vec(any::<u8>(), 0..200)) {
        let _ = Transcript::parse(&[&b"mailrecv transcript 1\n"[..], &text].concat());
    }
}

/// Each octet that there is, in a command and in the text of a message, is there to the last.
#[test]
fn any_octet_survives() {
    let scratch = scratch("deliver rcpt_to *@mx.example append inbox");
    scratch.write(CONFIG, scratch.read(CONFIG).replace("transcript_dir ./t", "transcript_dir ./t with_text"));
    let all: Vec<u8> = (0..=255).filter(|octet| *octet != b'\n').collect();
    let text: Vec<u8> = (0..=255).chain((0..=255).rev()).cycle().take(200_000).collect();
    let sent = [
        b"EHLO client.example\r\nFOO ",
        &all[..],
        b"\r\nMAIL FROM:<a@b.example>\r\nRCPT TO:<a@mx.example>\r\nDATA\r\n",
        &text,
        b"\r\n.\r\nNOOP ",
        &[b'x'; 3000],
        b"\r\nQUIT\r\n",
    ]
    .concat();
    let mut session = scratch.greeted();
    session.send(&sent);
    session.end();
    let recorded = transcript(&scratch);
    assert!(recorded.bytes().all(|octet| matches!(octet, b' '..=b'~' | b'\n' | b'\t')));
    let recorded = Transcript::parse(recorded.as_bytes()).unwrap().unwrap();
    let mut came = Vec::new();
    for (_, entry) in &recorded.entries {
        let (Entry::Said(octets) | Entry::Text(octets)) = entry else { continue };
        for piece in octets.pieces() {
            match piece {
                mailrecv::transcript::Piece::Shown(octets) => came.extend_from_slice(octets),
                // A line that is too long may be a password; its length is there.
                mailrecv::transcript::Piece::LeftOut(count) => came.extend((0..*count).map(|_| b'x')),
                mailrecv::transcript::Piece::Secret => panic!("there was no secret"),
            }
        }
    }
    assert_eq!(came.len(), sent.len());
    // The blank behind the verb is left out with the rest of the line.
    assert!(came[..sent.len() - 3100] == sent[..sent.len() - 3100]);
    assert_same(&scratch);
}
