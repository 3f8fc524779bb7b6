//! The DNS server of a garden, which answers at once. Without one some servers wait for seconds.

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::thread;

use anyhow::{Context, Result};
use simple_dns::rdata::{A, MX, RData};
use simple_dns::{CLASS, Name, Packet, PacketFlag, QTYPE, RCODE, ResourceRecord, TYPE};

/// The name of the next hop, which every domain has as its mail exchanger.
pub const NEXT_HOP: &str = "next-hop.garden";

const TTL: u32 = 60;

/// Answers queries at this address as long as the process lives: every name has the address 127.0.0.1, every domain has
/// the next hop as its mail exchanger, and there are no other records.
///
/// # Errors
///
/// The address cannot be used, or the thread cannot be made.
pub fn serve(address: SocketAddr) -> Result<SocketAddr> {
    let socket = UdpSocket::bind(address).with_context(|| format!("listening on {address}, as the DNS server"))?;
    let address = socket.local_addr()?;
    thread::Builder::new().name("DNS".into()).spawn(move || {
        let mut query = [0; 4096];
        loop {
            let Ok((length, from)) = socket.recv_from(&mut query) else { continue };
            // A malformed query gets no answer.
            if let Some(answer) = answer(&query[..length]) {
                let _ = socket.send_to(&answer, from);
            }
        }
    })?;
    Ok(address)
}

fn answer(query: &[u8]) -> Option<Vec<u8>> {
    let query = Packet::parse(query).ok().filter(|query| !query.has_flags(PacketFlag::RESPONSE))?;
    let question = query.questions.first()?.clone();
    let mut reply = Packet::new_reply(query.id());
    reply.set_flags(PacketFlag::RECURSION_AVAILABLE | PacketFlag::AUTHORITATIVE_ANSWER);
    *reply.rcode_mut() = RCODE::NoError;
    let data = match question.qtype {
        QTYPE::TYPE(TYPE::A) => Some(RData::A(A::from(Ipv4Addr::LOCALHOST))),
        QTYPE::TYPE(TYPE::MX) => Some(RData::MX(MX { preference: 10, exchange: Name::new_unchecked(NEXT_HOP) })),
        _ => None,
    };
    // This is the reverse name of an address, which has no address itself.
    let is_address = question.qname.to_string().ends_with(".arpa");
    if let Some(data) = data.filter(|_| !is_address) {
        reply.answers.push(ResourceRecord::new(question.qname.clone(), CLASS::IN, TTL, data));
    }
    reply.questions.push(question);
    reply.build_bytes_vec_compressed().ok()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use simple_dns::{QCLASS, Question};

    use super::*;

    fn ask(name: &str, kind: TYPE) -> Vec<String> {
        let server = serve(([127, 0, 0, 1], 0).into()).unwrap();
        let socket = UdpSocket::bind(("127.0.0.1", 0)).unwrap();
        let mut query = Packet::new_query(7);
        query.questions.push(Question::new(
            Name::new(name).unwrap(),
            QTYPE::TYPE(kind),
            QCLASS::CLASS(CLASS::IN),
            false,
        ));
        socket.send_to(&query.build_bytes_vec().unwrap(), server).unwrap();
        let mut answer = [0; 512];
        let length = socket.recv(&mut answer).unwrap();
        let answer = Packet::parse(&answer[..length]).unwrap();
        assert_eq!((answer.id(), answer.questions.len()), (7, 1));
        answer.answers.iter().map(|record| format!("{} {:?}", record.name, record.rdata)).collect()
    }

    #[test]
    fn every_name_is_here_and_every_exchanger_the_next_hop() {
        let addresses = ask("one.garden", TYPE::A);
        assert!(matches!(&addresses[..], [one] if one.contains("2130706433")), "{addresses:?}");
        let exchangers = ask("other.example", TYPE::MX);
        assert!(matches!(&exchangers[..], [one] if one.contains("next-hop")), "{exchangers:?}");
        for (name, kind) in
            [("one.garden", TYPE::AAAA), ("one.garden", TYPE::TXT), ("1.0.0.127.in-addr.arpa", TYPE::PTR)]
        {
            assert_eq!(ask(name, kind), Vec::<String>::new());
        }
    }
}
