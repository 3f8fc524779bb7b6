//! DNS messages (RFC 1035, section 4), as far as a question and its answer need them.
//!
//! Whoever holds an address writes its zone, and so what an answer holds. It is read where it lies: no memory is taken
//! for what it announces, a name takes a bounded number of steps, and of a long answer only the beginning is looked at.

use std::net::IpAddr;

/// How much of an answer is looked at, in octets: some 250 addresses, or 20 names of the longest. More is not read.
pub(super) const MAX_MESSAGE: usize = 4096;

/// What a record is about (RFC 1035, 3.2.2; RFC 3596, 2.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Type {
    /// An IPv4 address.
    A = 1,
    /// What this name is an alias of.
    Cname = 5,
    /// Another name; of an address, its host's.
    Ptr = 12,
    /// An IPv6 address.
    Aaaa = 28,
}

/// A question, ready to be sent.
#[derive(Debug)]
pub(super) struct Query(Vec<u8>);

/// An answer to a query, with records that can be read.
#[derive(Debug)]
pub(super) struct Answer {
    message: Vec<u8>,
    flags: u16,
    /// Where the records begin.
    records_at: usize,
    /// How many of them are here as a whole.
    records: u16,
}

/// What a message is to somebody who has sent a query.
#[derive(Debug)]
pub(super) enum Received {
    /// Its answer.
    Answer(Answer),
    /// Its answer, which cannot be read.
    Garbled,
    /// The answer to the same question with other capital letters.
    OtherCapitals,
    /// No answer, or one to another question.
    Unrelated,
}

/// What a record says, if it is of a type that we ask for.
#[derive(Debug)]
pub(super) enum Data {
    /// Of A and AAAA.
    Address(IpAddr),
    /// Of CNAME.
    Alias(Name),
    /// Of PTR.
    Pointer(Name),
    /// Of all others.
    Other,
}

/// A name: its labels with their lengths in front, without the empty one at the end.
#[derive(Debug, Clone)]
pub(super) struct Name {
    octets: [u8; MAX_NAME],
    length: usize,
}

impl Query {
    /// Asks for records of this type; `None` if there can be no such name. Which letters are capitals is drawn from
    /// `capitals`: a server repeats the question as it was asked, so who forges an answer has to guess them as well
    /// (draft-vixie-dnsext-dns0x20).
    pub(super) fn new(id: u16, name: &str, kind: Type, mut capitals: impl Iterator<Item = bool>) -> Option<Self> {
        let mut asked = Name::root();
        for label in name.split('.') {
            asked.push(label.as_bytes())?;
        }
        let mut message = Vec::with_capacity(HEADER + MAX_NAME + 5);
        message.extend(id.to_be_bytes());
        message.extend(RECURSION_DESIRED.to_be_bytes());
        // One question, and no records of three kinds.
        message.extend([0, 1, 0, 0, 0, 0, 0, 0]);
        for octet in asked.wire() {
            // The length of a label is no letter.
            let is_capital = octet.is_ascii_alphabetic() && capitals.next() == Some(true);
            message.push(if is_capital { octet.to_ascii_uppercase() } else { octet.to_ascii_lowercase() });
        }
        message.push(0);
        message.extend((kind as u16).to_be_bytes());
        message.extend(INTERNET.to_be_bytes());
        Some(Self(message))
    }

    /// What is to be sent.
    pub(super) fn message(&self) -> &[u8] {
        &self.0
    }

    /// Looks at a message that has come in. There may have been more of it if it is [`MAX_MESSAGE`] octets long.
    pub(super) fn receive(&self, message: Vec<u8>) -> Received {
        let mut reader = Reader { message: &message, at: 0 };
        let (Some([id, flags, questions, announced, _, _]), Some(question)) =
            (reader.header(), reader.take(self.0.len() - HEADER))
        else {
            return Received::Unrelated;
        };
        let asked = &self.0[HEADER..];
        if id.to_be_bytes() != self.0[..2]
            || flags & (RESPONSE | OPCODE) != RESPONSE
            || questions != 1
            || !question.eq_ignore_ascii_case(asked)
        {
            return Received::Unrelated;
        }
        if question != asked {
            return Received::OtherCapitals;
        }
        let records_at = reader.at;
        let mut records = 0;
        while records < announced && reader.record().is_some() {
            records += 1;
        }
        let is_whole = flags & TRUNCATED == 0 && message.len() < MAX_MESSAGE;
        if is_whole && records < announced {
            return Received::Garbled;
        }
        Received::Answer(Answer { message, flags, records_at, records })
    }
}

impl Answer {
    /// Whether the server had more to say than a datagram holds.
    pub(super) fn is_truncated(&self) -> bool {
        self.flags & TRUNCATED != 0
    }

    /// Why there are no records, unless it is that the name has none.
    pub(super) fn failure(&self) -> Option<String> {
        Some(match self.flags & RESPONSE_CODE {
            // No error, no such name.
            0 | 3 => return None,
            1 => "format error".to_owned(),
            2 => "server failure".to_owned(),
            4 => "not implemented".to_owned(),
            5 => "refused".to_owned(),
            code => format!("response code {code}"),
        })
    }

    /// What the records say that are about the name asked for, or about the one that its aliases lead to: the server has
    /// put those into the same answer. Records about other names are none of ours.
    pub(super) fn data(&self) -> impl Iterator<Item = Data> {
        // The question begins with the name that was asked for; it has been compared.
        let mut owner = Reader { message: &self.message, at: HEADER }.name().unwrap_or_else(Name::root);
        for _ in 0..MAX_ALIASES {
            let alias = self.records().find_map(|(name, data)| match data {
                Data::Alias(target) if name.is(&owner) => Some(target),
                _ => None,
            });
            match alias {
                Some(target) => owner = target,
                None => break,
            }
        }
        self.records().filter(move |(name, _)| name.is(&owner)).map(|(_, data)| data)
    }

    fn records(&self) -> impl Iterator<Item = (Name, Data)> {
        let mut reader = Reader { message: &self.message, at: self.records_at };
        (0..self.records).map_while(move |_| reader.record())
    }
}

impl Name {
    fn root() -> Self {
        Self { octets: [0; MAX_NAME], length: 0 }
    }

    /// Adds a label; `None` if it cannot be one, or if the name becomes too long (RFC 1035, 2.3.4).
    fn push(&mut self, label: &[u8]) -> Option<()> {
        let length = u8::try_from(label.len()).ok().filter(|length| (1..=MAX_LABEL).contains(length))?;
        let room = self.octets[self.length..].get_mut(..=label.len())?;
        room[0] = length;
        room[1..].copy_from_slice(label);
        self.length += room.len();
        Some(())
    }

    fn wire(&self) -> &[u8] {
        &self.octets[..self.length]
    }

    /// Whether two names are one, letter case aside (RFC 4343). The length of a label is no letter.
    fn is(&self, other: &Self) -> bool {
        self.wire().eq_ignore_ascii_case(other.wire())
    }

    /// The labels with dots in between; `None` if there is one in a label, which would forge a hierarchy that nobody
    /// delegated, or anything but ASCII.
    pub(super) fn to_text(&self) -> Option<String> {
        let mut text = String::with_capacity(self.length);
        let mut rest = self.wire();
        while let [length, labels @ ..] = rest {
            let (label, behind) = labels.split_at_checked(usize::from(*length))?;
            if !text.is_empty() {
                text.push('.');
            }
            text.push_str(str::from_utf8(label).ok().filter(|label| label.is_ascii() && !label.contains('.'))?);
            rest = behind;
        }
        Some(text)
    }
}

/// Reads a message from some place on. `None` is where it does not hold what should be there.
struct Reader<'m> {
    message: &'m [u8],
    at: usize,
}

impl<'m> Reader<'m> {
    fn take(&mut self, length: usize) -> Option<&'m [u8]> {
        let taken = self.message.get(self.at..)?.get(..length)?;
        self.at += length;
        Some(taken)
    }

    fn number(&mut self) -> Option<u16> {
        Some(u16::from_be_bytes(self.take(2)?.try_into().ok()?))
    }

    /// Identifier, flags, and how many questions and records there are (RFC 1035, 4.1.1).
    fn header(&mut self) -> Option<[u16; 6]> {
        let mut header = [0; 6];
        for field in &mut header {
            *field = self.number()?;
        }
        Some(header)
    }

    /// A record (RFC 1035, 4.1.3), and whose it is.
    fn record(&mut self) -> Option<(Name, Data)> {
        let owner = self.name()?;
        let (kind, class, _time_to_live) = (self.number()?, self.number()?, self.take(4)?);
        let length = usize::from(self.number()?);
        let mut data = Reader { message: self.message, at: self.at };
        let octets = self.take(length)?;
        let data = match kind {
            _ if class != INTERNET => Data::Other,
            kind if kind == Type::A as u16 => Data::Address(<[u8; 4]>::try_from(octets).ok()?.into()),
            kind if kind == Type::Aaaa as u16 => Data::Address(<[u8; 16]>::try_from(octets).ok()?.into()),
            kind if kind == Type::Cname as u16 => Data::Alias(data.name()?),
            kind if kind == Type::Ptr as u16 => Data::Pointer(data.name()?),
            _ => Data::Other,
        };
        Some((owner, data))
    }

    /// A name, which may go on at an earlier place, and from there at another one (RFC 1035, 4.1.4).
    fn name(&mut self) -> Option<Name> {
        let mut name = Name::root();
        let mut part = Reader { message: self.message, at: self.at };
        let mut pointers = 0;
        loop {
            let at = part.at;
            match part.take(1)? {
                [0] => break,
                [length @ 1..=MAX_LABEL] => name.push(part.take(usize::from(*length))?)?,
                [high @ POINTER..=u8::MAX] => {
                    let low = part.take(1)?;
                    if pointers == 0 {
                        self.at = part.at;
                    }
                    pointers += 1;
                    part.at = usize::from(u16::from_be_bytes([high - POINTER, low[0]]));
                    if part.at >= at || pointers > MAX_POINTERS {
                        return None;
                    }
                }
                _ => return None,
            }
        }
        if pointers == 0 {
            self.at = part.at;
        }
        Some(name)
    }
}

/// The length of a message's header.
const HEADER: usize = 12;

/// The longest name, in octets (RFC 1035, 2.3.4: 255 with the empty label at the end).
const MAX_NAME: usize = 254;

/// The longest label, in octets (RFC 1035, 2.3.4).
const MAX_LABEL: u8 = 63;

/// What the first octet of a pointer begins with, and no length does (RFC 1035, 4.1.4).
const POINTER: u8 = 0b1100_0000;

/// How many pointers a name may have: as many as it can have labels.
const MAX_POINTERS: usize = 127;

/// How long a chain of aliases may be.
const MAX_ALIASES: usize = 8;

/// The class of everything that we ask for (RFC 1035, 3.2.4).
const INTERNET: u16 = 1;

// The flags (RFC 1035, 4.1.1).
const RESPONSE: u16 = 0x8000;
const OPCODE: u16 = 0x7800;
const TRUNCATED: u16 = 0x0200;
const RECURSION_DESIRED: u16 = 0x0100;
const RESPONSE_CODE: u16 = 0x000f;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use simple_dns::rdata::{CNAME, PTR, RData, TXT};
    use simple_dns::{CLASS, Packet, PacketFlag, ResourceRecord};

    use super::*;

    fn query(name: &str, kind: Type) -> Query {
        Query::new(7, name, kind, [true, false].into_iter().cycle()).unwrap()
    }

    /// An answer to a query, with so many records, which are these.
    fn answer(query: &Query, count: u16, records: &[u8]) -> Vec<u8> {
        let mut message = query.message().to_vec();
        message[2] |= 0x80;
        message[6..8].copy_from_slice(&count.to_be_bytes());
        message.extend(records);
        message
    }

    /// What the records of an answer say, as text.
    fn said(received: Received) -> Result<Vec<String>, String> {
        let Received::Answer(answer) = received else { return Err(format!("{received:?}")) };
        let texts = answer.data().map(|data| match data {
            Data::Address(address) => address.to_string(),
            Data::Pointer(name) => name.to_text().unwrap_or_else(|| "no text".to_owned()),
            Data::Alias(name) => format!("alias {}", name.to_text().unwrap_or_default()),
            Data::Other => "other".to_owned(),
        });
        Ok(texts.collect())
    }

    #[test]
    fn a_query_is_written_as_drawn() {
        let query = query("mail.example", Type::Aaaa);
        assert_eq!(query.message(), b"\0\x07\x01\0\0\x01\0\0\0\0\0\0\x04MaIl\x07ExAmPlE\0\0\x1c\0\x01");
        let long = [&*"x".repeat(63); 4].join(".");
        for no_name in ["", ".", "a..b", "a.", &"x".repeat(64), &long] {
            assert!(Query::new(7, no_name, Type::A, std::iter::repeat(true)).is_none(), "{no_name}");
        }
        assert!(Query::new(7, &long[..253], Type::A, std::iter::repeat(true)).is_some());
    }

    #[test]
    fn only_an_answer_to_this_question_counts() {
        let query = query("mail.example", Type::A);
        let right = answer(&query, 0, b"");
        assert_eq!(said(query.receive(right.clone())), Ok(vec![]));
        let changed = |at: usize, octet: u8| {
            let mut message = right.clone();
            message[at] = octet;
            said(query.receive(message)).unwrap_err()
        };
        // The identifier, a question, another kind of question, two questions, another name, type and class.
        for (at, octet) in [(1, 8), (2, 1), (2, 0x89), (5, 2), (13, b'N'), (27, 12), (29, 3)] {
            assert_eq!(changed(at, octet), "Unrelated", "{at}");
        }
        assert_eq!(changed(13, b'm'), "OtherCapitals");
        assert_eq!(said(query.receive(right[..20].to_vec())), Err("Unrelated".to_owned()));
        assert_eq!(said(query.receive(Vec::new())), Err("Unrelated".to_owned()));
    }

    #[test]
    fn names_in_records() {
        let query = query("me", Type::Ptr);
        let record_at = u8::try_from(query.message().len()).unwrap();
        // What is said of the name asked for, with names that begin where the record's data is: `at`.
        let pointer_to = |data: &[u8]| {
            let length = u16::try_from(data.len()).unwrap().to_be_bytes();
            let head = [b"\xc0\x0c\0\x0c\0\x01\0\0\0\0", &length[..]].concat();
            said(query.receive(answer(&query, 1, &[&head, data].concat())))
        };
        let at = record_at + 12;
        let longest = [&[b"\x3f", &[b'x'; 63][..]].concat().repeat(3)[..], b"\x3d", &[b'x'; 61], b"\0"].concat();
        let readable: [(&[u8], &str); 6] = [
            (b"\x04mail\x07example\0", "mail.example"),
            (b"\x04mail\xc0\x0c", "mail.Me"),
            (b"\0", ""),
            (b"\x03a.b\0", "no text"),
            (b"\x01\xff\0", "no text"),
            (
                &longest,
                &[&"x".repeat(63)[..]; 3].iter().chain(&[&"x".repeat(61)[..]]).copied().collect::<Vec<_>>().join("."),
            ),
        ];
        for (data, text) in readable {
            assert_eq!(pointer_to(data), Ok(vec![text.to_owned()]), "{data:?}");
        }
        let too_long = [&[b"\x3f", &[b'x'; 63][..]].concat().repeat(3)[..], b"\x3e", &[b'x'; 62], b"\0"].concat();
        let broken: [&[u8]; 8] = [
            b"",
            b"\x04mai",
            // To itself, to what follows, to its own beginning, to where there is nothing.
            &[0xc0, at],
            &[0xc0, at + 2, 0],
            &[1, b'a', 0xc0, at],
            b"\xff\xff",
            // A length that is none.
            b"\x40x\0",
            &too_long,
        ];
        for data in broken {
            assert_eq!(pointer_to(data), Err("Garbled".to_owned()), "{data:?}");
        }
    }

    /// Pointers that lead to pointers, each an earlier one, as far as that goes.
    #[test]
    fn a_name_has_few_pointers() {
        let query = query("me", Type::Ptr);
        let chain_of = |pointers: u16| {
            let first = u16::try_from(query.message().len()).unwrap() + 11;
            // A record of another name, with a chain as its data, and one that leads to the chain's end.
            let mut records = b"\0\0\x10\0\x01\0\0\0\0".to_vec();
            records.extend((2 * pointers).to_be_bytes());
            records.extend((0xc00c_u16).to_be_bytes());
            for number in 1..pointers {
                records.extend((0xc000 + first + 2 * (number - 1)).to_be_bytes());
            }
            records.extend(b"\xc0\x0c\0\x0c\0\x01\0\0\0\0\0\x02");
            records.extend((0xc000 + first + 2 * (pointers - 1)).to_be_bytes());
            said(query.receive(answer(&query, 2, &records)))
        };
        assert_eq!(chain_of(126), Ok(vec!["Me".to_owned()]));
        assert_eq!(chain_of(127), Err("Garbled".to_owned()));
    }

    /// Of what is longer than we read, the records count that are here as a whole.
    #[test]
    fn a_long_answer_counts_as_far_as_it_is_read() {
        let query = query("me", Type::A);
        let records = b"\xc0\x0c\0\x01\0\x01\0\0\0\0\0\x04\xc0\0\x02\x07".repeat(300);
        let mut message = answer(&query, 300, &records);
        message.truncate(MAX_MESSAGE);
        let whole = (MAX_MESSAGE - query.message().len()) / 16;
        assert_eq!(said(query.receive(message.clone())), Ok(vec!["192.0.2.7".to_owned(); whole]));
        message.truncate(MAX_MESSAGE - 1);
        assert_eq!(said(query.receive(message)), Err("Garbled".to_owned()));
    }

    #[derive(Debug, Clone)]
    enum Said {
        Pointer(&'static str),
        Address([u8; 4]),
        Alias(&'static str),
        Text,
    }

    fn any_name() -> impl Strategy<Value = &'static str> {
        prop::sample::select(
            &["me.example", "Me.Example", "mail.me.example", "example", "other", "a.b.c.d.example"][..],
        )
    }

    fn any_record() -> impl Strategy<Value = (&'static str, Said)> {
        let said = prop_oneof![
            any_name().prop_map(Said::Pointer),
            any::<[u8; 4]>().prop_map(Said::Address),
            any_name().prop_map(Said::Alias),
            Just(Said::Text),
        ];
        (any_name(), said)
    }

    /// What somebody else writes, with its names compressed or not.
    fn written(query: &Query, records: &[(&'static str, Said)], is_compressed: bool) -> Vec<u8> {
        let mut packet = Packet::parse(query.message()).unwrap().into_reply();
        packet.set_flags(PacketFlag::RESPONSE);
        for (owner, said) in records {
            let data = match said {
                Said::Pointer(name) => RData::PTR(PTR((*name).try_into().unwrap())),
                Said::Address(octets) => RData::A(std::net::Ipv4Addr::from(*octets).into()),
                Said::Alias(name) => RData::CNAME(CNAME((*name).try_into().unwrap())),
                Said::Text => RData::TXT(TXT::new().with_string("text").unwrap()),
            };
            packet.answers.push(ResourceRecord::new((*owner).try_into().unwrap(), CLASS::IN, 60, data));
        }
        if is_compressed { packet.build_bytes_vec_compressed() } else { packet.build_bytes_vec() }.unwrap()
    }

    /// The same from the records themselves.
    fn expected(records: &[(&'static str, Said)]) -> Vec<String> {
        let mut owner = "me.example";
        for _ in 0..MAX_ALIASES {
            let alias = records.iter().find_map(|(name, said)| match said {
                Said::Alias(target) if name.eq_ignore_ascii_case(owner) => Some(target),
                _ => None,
            });
            owner = alias.unwrap_or(&owner);
        }
        let about = records.iter().filter(|(name, _)| name.eq_ignore_ascii_case(owner));
        let texts = about.map(|(_, said)| match said {
            Said::Pointer(name) => (*name).to_owned(),
            Said::Address(octets) => IpAddr::from(*octets).to_string(),
            Said::Alias(name) => format!("alias {name}"),
            Said::Text => "other".to_owned(),
        });
        texts.collect()
    }

    proptest! {
        /// What another program writes is read as it was meant, and what is broken in it breaks nothing here.
        #[test]
        fn what_others_write_is_read(
            records in prop::collection::vec(any_record(), 0..20),
            is_compressed: bool,
            changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
        ) {
            let query = query("me.example", Type::Ptr);
            let mut message = written(&query, &records, is_compressed);
            prop_assert_eq!(said(query.receive(message.clone())), Ok(expected(&records)));
            for (at, octet) in changes {
                let at = query.message().len().min(message.len() - 1) + at.index(message.len());
                if let Some(place) = message.get_mut(at) {
                    *place = octet;
                }
                let _ = said(query.receive(message.clone()));
            }
        }
    }
}
