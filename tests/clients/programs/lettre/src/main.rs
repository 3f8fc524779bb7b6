//! lettre: HOST PORT SENDER RECIPIENT..., the message on standard input.

use std::error::Error;
use std::io::Read;

use lettre::address::Envelope;
use lettre::transport::smtp::extension::ClientId;
use lettre::{Address, SmtpTransport, Transport};

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().collect();
    let mut message = Vec::new();
    std::io::stdin().read_to_end(&mut message)?;
    let recipients = arguments[4..].iter().map(|recipient| recipient.parse()).collect::<Result<Vec<Address>, _>>()?;
    let envelope = Envelope::new(Some(arguments[3].parse()?), recipients)?;
    let transport = SmtpTransport::builder_dangerous(&arguments[1])
        .port(arguments[2].parse()?)
        .hello_name(ClientId::Domain("client.example".to_owned()))
        .build();
    transport.send_raw(&envelope, &message)?;
    Ok(())
}
