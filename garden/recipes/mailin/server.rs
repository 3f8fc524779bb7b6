//! A server on mailin-embedded: what the library hands over goes to Maildirs.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};

use mailin_embedded::{Handler, Response, Server, SslConfig, response};

#[derive(Clone)]
struct Session {
    domain: String,
    users: Vec<String>,
    message: Vec<u8>,
}

static NUMBER: AtomicU64 = AtomicU64::new(1);

impl Handler for Session {
    fn rcpt(&mut self, to: &str) -> Response {
        match to.to_lowercase().split_once('@') {
            Some((user @ ("user1" | "user2"), domain)) if domain == self.domain => {
                self.users.push(user.to_owned());
                response::OK
            }
            _ => response::NO_MAILBOX,
        }
    }

    fn data(&mut self, octets: &[u8]) -> io::Result<()> {
        self.message.extend_from_slice(octets);
        Ok(())
    }

    fn data_end(&mut self) -> Response {
        let message = std::mem::take(&mut self.message);
        for user in std::mem::take(&mut self.users) {
            let name = format!("{}.garden", NUMBER.fetch_add(1, Ordering::Relaxed));
            let maildir = format!("/home/{user}/Maildir");
            let delivered = std::fs::write(format!("{maildir}/tmp/{name}"), &message)
                .and_then(|()| std::fs::rename(format!("{maildir}/tmp/{name}"), format!("{maildir}/new/{name}")));
            if let Err(error) = delivered {
                eprintln!("{maildir}: {error}");
                return response::INTERNAL_ERROR;
            }
        }
        response::OK
    }
}

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let domain = arguments[2].clone();
    let mut server = Server::new(Session { domain: domain.clone(), users: Vec::new(), message: Vec::new() });
    server.with_name(domain).with_ssl(SslConfig::None).unwrap().with_addr(&arguments[1]).unwrap();
    server.serve().unwrap();
}
