//! DNS messages (RFC 1035, section 4), as far as questions and their answers need them. The crate `domain` writes and
//! reads them; this module decides which message counts as the answer, and which of its records count.
//!
//! The owner of an address also controls its reverse zone, and so the content of an answer. An answer is read in place:
//! no memory is allocated for what it announces, decoding a name takes a bounded number of steps, and only the
//! beginning of a long answer is looked at.
//!
//! `ParsedName::parse_ref` of `domain` 0.12.3 bounds the steps: a pointer has to lead to an earlier place than its own
//! (RFC 1035, 4.1.4), and a name has at most 255 pointers and 255 octets (RFC 1035, 2.3.4).

use domain::base::iana::{Opcode, Rcode};
use domain::base::name::Name;
use domain::base::rdata::ParseRecordData;
use domain::base::record::ParsedRecord;
use domain::base::{Message, MessageBuilder, ParsedName, Question, Record};
use domain::dep::octseq::Array;
use domain::rdata::{A, Aaaa, Cname, Ptr};

/// How many octets of an answer are read: enough for about 250 addresses, or 20 of the longest names.
pub(super) const MAX_MESSAGE: usize = 4096;

/// A name in a question.
pub(super) type QueryName = Name<Array<MAX_NAME>>;

/// A question, ready to be sent.
#[derive(Debug)]
pub(super) struct Query(Message<Array<{ HEADER + MAX_NAME + 4 }>>);

/// An answer whose records can be read.
#[derive(Debug)]
pub(super) struct Answer(Message<Vec<u8>>);

/// What an incoming message is for the sender of a query.
#[derive(Debug)]
pub(super) enum Received {
    /// The answer.
    Answer(Answer),
    /// The answer, but it cannot be read.
    Garbled,
    /// The answer to the same question in other capital letters.
    OtherCapitals,
    /// No answer to this query.
    Unrelated,
}

impl Query {
    /// Writes a query; `None` if it does not fit, which cannot happen. `capitals` decides which letters are capitals: a
    /// server repeats the question exactly, so somebody who forges an answer has to guess them too
    /// (draft-vixie-dnsext-dns0x20).
    pub(super) fn new(
        id: u16,
        question: &Question<QueryName>,
        mut capitals: impl Iterator<Item = bool>,
    ) -> Option<Self> {
        let mut message = MessageBuilder::from_target(Array::new()).ok()?;
        message.header_mut().set_id(id);
        message.header_mut().set_rd(true);
        let mut message = message.question();
        message.push(question).ok()?;
        let mut octets = message.finish();
        // Lengths of labels, and the types and class that we ask for, are no letters in ASCII.
        for octet in &mut octets[HEADER..] {
            if octet.is_ascii_alphabetic() && capitals.next() == Some(true) {
                octet.make_ascii_uppercase();
            } else {
                octet.make_ascii_lowercase();
            }
        }
        Some(Self(Message::from_octets(octets).ok()?))
    }

    /// The octets to send.
    pub(super) fn message(&self) -> &[u8] {
        self.0.as_slice()
    }

    /// Judges an incoming message. A message of [`MAX_MESSAGE`] octets may have been longer.
    pub(super) fn receive(&self, message: Vec<u8>) -> Received {
        let Ok(message) = Message::from_octets(message) else { return Received::Unrelated };
        let answer = message.for_slice();
        if !answer.is_answer(&self.0) || answer.header().opcode() != Opcode::QUERY {
            return Received::Unrelated;
        }
        if !answer.as_slice()[HEADER..].starts_with(&self.message()[HEADER..]) {
            return Received::OtherCapitals;
        }
        let is_whole = !answer.header().tc() && answer.as_slice().len() < MAX_MESSAGE;
        if is_whole && !is_readable(answer) {
            return Received::Garbled;
        }
        Received::Answer(Answer(message))
    }
}

impl Answer {
    /// Whether the answer was too long for a datagram.
    pub(super) fn is_truncated(&self) -> bool {
        self.0.header().tc()
    }

    /// Why the server gave no answer; `None` also if the name does not exist.
    pub(super) fn failure(&self) -> Option<String> {
        Some(match self.0.header().rcode() {
            // NXDOMAIN means that the name does not exist.
            Rcode::NOERROR | Rcode::NXDOMAIN => return None,
            Rcode::FORMERR => "format error".to_owned(),
            Rcode::SERVFAIL => "server failure".to_owned(),
            Rcode::NOTIMP => "not implemented".to_owned(),
            Rcode::REFUSED => "refused".to_owned(),
            code => format!("response code {}", code.to_int()),
        })
    }

    /// The data of all records of a type that belong to the name in the question, or to the name that its aliases lead
    /// to, which the server puts into the same answer. Records of other names are ignored.
    pub(super) fn data<'a, D: ParseRecordData<'a, [u8]>>(&'a self) -> impl Iterator<Item = D> {
        let mut owner = self.0.for_slice().first_question().map(Question::into_qname);
        for _ in 0..MAX_ALIASES {
            let alias = self.records::<Cname<_>>().find(|record| Some(*record.owner()) == owner);
            let Some(alias) = alias else { break };
            owner = Some(alias.into_data().into_cname());
        }
        self.records().filter(move |record| Some(*record.owner()) == owner).map(Record::into_data)
    }

    /// The readable records of a type.
    fn records<'a, D: ParseRecordData<'a, [u8]>>(&'a self) -> impl Iterator<Item = Record<ParsedName<&'a [u8]>, D>> {
        self.0.for_slice().answer().into_iter().flat_map(|records| records.limit_to_in()).flatten()
    }
}

/// Whether all announced records are there, and those of the types that we ask for can be read.
fn is_readable(answer: &Message<[u8]>) -> bool {
    let is_readable = |record: ParsedRecord<'_, [u8]>| {
        record.to_record::<A>().is_ok()
            && record.to_record::<Aaaa>().is_ok()
            && record.to_record::<Cname<_>>().is_ok()
            && record.to_record::<Ptr<_>>().is_ok()
    };
    answer.answer().is_ok_and(|mut records| records.all(|record| record.is_ok_and(is_readable)))
}

/// The length of a message's header, in octets.
const HEADER: usize = 12;

/// The longest name, in octets (RFC 1035, 2.3.4).
const MAX_NAME: usize = 255;

/// The longest chain of aliases that is followed.
const MAX_ALIASES: usize = 8;

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use domain::base::iana::Rtype;
    use proptest::prelude::*;
    use simple_dns::rdata::{CNAME, PTR, RData, TXT};
    use simple_dns::{CLASS, Packet, PacketFlag, ResourceRecord};

    use super::*;

    fn query(name: &str, kind: Rtype) -> Query {
        let question = Question::new_in(name.parse().unwrap(), kind);
        Query::new(7, &question, [true, false].into_iter().cycle()).unwrap()
    }

    /// An answer to a query, with so many records, which are these.
    fn answer(query: &Query, count: u16, records: &[u8]) -> Vec<u8> {
        let mut message = query.message().to_vec();
        message[2] |= 0x80;
        message[6..8].copy_from_slice(&count.to_be_bytes());
        message.extend(records);
        message
    }

    /// What the records of an answer say, as text: names, then addresses.
    fn said(received: Received) -> Result<Vec<String>, String> {
        let Received::Answer(answer) = received else { return Err(format!("{received:?}")) };
        let names = answer.data::<Ptr<_>>().map(|ptr| ptr.ptrdname().to_string());
        Ok(names.chain(answer.data::<A>().map(|a| a.addr().to_string())).collect())
    }

    #[test]
    fn a_query_is_written_as_drawn() {
        let asked = query("mail.example", Rtype::AAAA);
        assert_eq!(asked.message(), b"\0\x07\x01\0\0\x01\0\0\0\0\0\0\x04MaIl\x07ExAmPlE\0\0\x1c\0\x01");
        let longest = &[&*"x".repeat(63); 4].join(".")[..253];
        assert_eq!(query(longest, Rtype::A).message().len(), HEADER + MAX_NAME + 4);
    }

    #[test]
    fn only_an_answer_to_this_question_counts() {
        let query = query("mail.example", Rtype::A);
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
        let query = query("me", Rtype::PTR);
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
            (b"\x03a.b\0", "a\\.b"),
            (b"\x01\xff\0", "\\255"),
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
        let query = query("me", Rtype::PTR);
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
        assert_eq!(chain_of(254), Ok(vec!["Me".to_owned()]));
        assert_eq!(chain_of(255), Err("Garbled".to_owned()));
    }

    /// Of what is longer than we read, the records count that are here as a whole.
    #[test]
    fn a_long_answer_counts_as_far_as_it_is_read() {
        let query = query("me", Rtype::A);
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
        let about = records.iter().filter(|(name, _)| name.eq_ignore_ascii_case(owner)).map(|(_, said)| said);
        let names = about.clone().filter_map(|said| match said {
            Said::Pointer(name) => Some((*name).to_owned()),
            _ => None,
        });
        let addresses = about.filter_map(|said| match said {
            Said::Address(octets) => Some(IpAddr::from(*octets).to_string()),
            _ => None,
        });
        names.chain(addresses).collect()
    }

    #[test]
    fn a_chain_of_aliases_is_short() {
        let query = query("me.example", Rtype::A);
        let names = ["me.example", "b", "c", "d", "e", "f", "g", "h", "i", "j"];
        let behind = |aliases: usize| {
            let chain = names.windows(2).take(aliases).map(|pair| (pair[0], Said::Alias(pair[1])));
            let records: Vec<_> = chain.chain([(names[aliases], Said::Address([192, 0, 2, 7]))]).collect();
            said(query.receive(written(&query, &records, true)))
        };
        assert_eq!(behind(8), Ok(vec!["192.0.2.7".to_owned()]));
        assert_eq!(behind(9), Ok(vec![]));
    }

    proptest! {
        /// What another program writes is read as it was meant, and what is broken in it breaks nothing here.
        #[test]
        fn what_others_write_is_read(
            records in prop::collection::vec(any_record(), 0..20),
            is_compressed: bool,
            changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
        ) {
            let query = query("me.example", Rtype::PTR);
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
