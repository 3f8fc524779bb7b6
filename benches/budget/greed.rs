//! What a peer costs that is out to keep us busy, byte for byte, beside one that sends mail.

use crate::Result;
use crate::bench::Bench;
use crate::contest::Session;
use crate::sessions::message;
use crate::table::{Figure, Target, Unit};

/// Recipients that are put off count against no limit of commands, and each may have a thousand patterns tried. Both
/// sessions have the same rules; an ordinary one sends a small mail to one recipient that has to be tried against all.
pub(crate) fn greed(bench: &mut Bench) -> Result<()> {
    const ORDINARY: &str = "mailrecv, ordinary";
    let figures = [Figure::new(
        "put off 12000 times, processor time a byte",
        Unit::MicrosecondsPerByte,
        Some(Target::RatioAtMost(2.0)),
    )];
    // No text that a match must have, so that each is compiled and tried.
    let error = |number| {
        format!(
            "error rcpt_to ^[a-z]+[0-9]{{{}}}[.-][a-z0-9]*[x-z]{{{}}}@ 550 No longer here\n",
            number % 30 + 5,
            number / 30 + 2
        )
    };
    let rules = (1..=1000).map(error).collect::<String>()
        + "deliver rcpt_to mail*@localhost append \"{dir}/mailbox-mailrecv\"\n"
        + "deliver rcpt_to *@localhost pipe cat >/dev/null\n";
    let greedy = bench.mailrecv(&rules)?;
    let ordinary = greedy.clone().named(ORDINARY);
    let mail = String::from_utf8(message(1_000))?;
    bench.measure(figures, bench.few_runs(), &[greedy, ordinary], |contestant, listener| {
        let mut session = Session::open(contestant, listener)?;
        session.hello()?;
        let (octets, microseconds) = if contestant.name.starts_with(ORDINARY) {
            let commands = ["MAIL FROM:<bench@localhost>", "RCPT TO:<mailbox@localhost>", "DATA"];
            let commands = commands.into_iter().map(|command| format!("{command}\r\n"));
            session.spend(commands.chain([mail.clone()]))?
        } else {
            session.spend((0..11).flat_map(|transaction| {
                let recipients =
                    (0..1_100).map(move |number| format!("{}{transaction}.{number}", "recipient".repeat(6)));
                let recipients = recipients.map(|name| format!("RCPT TO:<{name}@localhost>\r\n"));
                let mail = "MAIL FROM:<bench@localhost>\r\n".to_owned();
                [mail].into_iter().chain(recipients).chain(["RSET\r\n".to_owned()])
            }))?
        };
        Ok([microseconds / octets])
    });
    Ok(())
}
