//! What sessions cost: the start, one mail, much mail, many at once, and waiting.

use std::net::TcpListener;
use std::thread;
use std::time::{Duration, Instant};

use crate::Result;
use crate::bench::Bench;
use crate::contest::{Contestant, Session};
use crate::peer::{Opening, Protocol};
use crate::table::{Figure, Target, Unit};

pub(crate) fn greeting(bench: &mut Bench) -> Result<()> {
    let figures = [Figure::new("exec to greeting", Unit::Milliseconds, Some(Target::RatioAtMost(1.35)))];
    let contestants = bench.contestants(&[bench.mailrecv(ONE_RULE)?, bench.do_nothing()]);
    bench.measure(figures, bench.runs(), &contestants, time_to_greeting);
    Ok(())
}

pub(crate) fn time_to_greeting(contestant: &Contestant, listener: &TcpListener) -> Result<[f64; 1]> {
    let mut session = Session::open(contestant, listener)?;
    session.quit()?;
    Ok([milliseconds(session.to_greeting)])
}

pub(crate) fn small_mail(bench: &mut Bench) -> Result<()> {
    let what = "one small mail, connect to exit, durable";
    let figures = [Figure::new(what, Unit::Milliseconds, Some(Target::RatioAtMost(1.25)))];
    // The target is what we add to the disk's own time.
    let contestants = bench.contestants(&[bench.mailrecv(ONE_RULE)?, bench.do_nothing_durable(), bench.do_nothing()]);
    let mail = message(1_000);
    bench.measure(figures, bench.runs(), &contestants, |contestant, listener| {
        time_of_mail(contestant, listener, &[RECIPIENT], &mail)
    });
    Ok(())
}

/// A message that would be recognised if it came again, beside one that would not.
pub(crate) fn once(bench: &mut Bench) -> Result<()> {
    let recognised = format!("exactly_once \"{{dir}}/once\"\n{ONE_RULE}");
    let contestants = [bench.mailrecv(&recognised)?, bench.mailrecv(ONE_RULE)?.named("mailrecv, without")];
    // The table is made once.
    bench.try_out(&contestants[0])?;
    let what = "exactly_once, one small mail, connect to exit";
    let figures = [Figure::new(what, Unit::AddedMilliseconds, Some(Target::AddsAtMost(0.15)))];
    let mail = message(1_000);
    bench.measure(figures, bench.runs(), &contestants, |contestant, listener| {
        time_of_mail(contestant, listener, &[RECIPIENT], &mail)
    });
    Ok(())
}

/// A mail that people are shown, to a log file, beside one that is put into a mailbox.
pub(crate) fn print(bench: &mut Bench) -> Result<()> {
    let shown = "logfile \"{dir}/mailbox-mailrecv\"\ndeliver rcpt_to postmaster@localhost print\n";
    let contestants = [bench.mailrecv(shown)?, bench.mailrecv(ONE_RULE)?.named("mailrecv, append")];
    for (what, mail) in [("one small mail", message(1_000)), ("a page of 200 KB in HTML", page(200_000))] {
        let figures = [Figure::new(&format!("print, {what}, connect to exit"), Unit::Milliseconds, None)];
        bench.measure(figures, bench.runs(), &contestants, |contestant, listener| {
            // Of a large one no more than its first lines are shown.
            time_of_mail_of(contestant, listener, &[RECIPIENT], &mail, mail.len().min(1_000))
        });
    }
    Ok(())
}

/// LMTP, which answers for each recipient by itself, beside SMTP, which answers for all of them at once.
pub(crate) fn lmtp(bench: &mut Bench) -> Result<()> {
    let recipients = ["one@localhost", "two@localhost", "three@localhost", "four@localhost", RECIPIENT];
    let mailboxes = recipients.map(|recipient| {
        let mailbox = if recipient == RECIPIENT { "mailbox-mailrecv" } else { recipient };
        format!("deliver rcpt_to {recipient} append \"{{dir}}/{mailbox}\"\n")
    });
    let rules = mailboxes.concat();
    let by_lmtp = Opening { protocol: Protocol::Lmtp, ..Opening::default() };
    let contestants = [
        bench.mailrecv(&format!("{rules}protocol lmtp\n"))?.opened_by(by_lmtp),
        bench.mailrecv(&rules)?.named("mailrecv, SMTP"),
    ];
    let figures = [Figure::new("LMTP, one small mail for five, connect to exit", Unit::Milliseconds, None)];
    let mail = message(1_000);
    bench.measure(figures, bench.runs(), &contestants, |contestant, listener| {
        time_of_mail(contestant, listener, &recipients, &mail)
    });
    Ok(())
}

/// From connecting to the exit.
pub(crate) fn time_of_mail(
    contestant: &Contestant,
    listener: &TcpListener,
    recipients: &[&str],
    mail: &[u8],
) -> Result<[f64; 1]> {
    time_of_mail_of(contestant, listener, recipients, mail, mail.len())
}

/// The same, if so much of it is in the mailbox afterwards.
fn time_of_mail_of(
    contestant: &Contestant,
    listener: &TcpListener,
    recipients: &[&str],
    mail: &[u8],
    delivered: usize,
) -> Result<[f64; 1]> {
    let mailbox = contestant.mailbox_length();
    let mut session = Session::open(contestant, listener)?;
    session.offer(recipients)?;
    session.data(mail)?;
    session.quit()?;
    let connect_to_exit = session.connected.elapsed();
    contestant.check_mailbox_grew(mailbox, delivered)?;
    Ok([milliseconds(connect_to_exit)])
}

pub(crate) fn fifty_megabytes(bench: &mut Bench) -> Result<()> {
    let figures = [
        // Five times what the original mailrecv reaches at best, and that without making the mail durable.
        Figure::new("50 MB to a file, rate", Unit::MegabytesPerSecond, Some(Target::AtLeast(5.0 * 115.0))),
        Figure::new("50 MB to a file, peak memory", Unit::Kibibytes, Some(Target::AtMost(8.0 * 1024.0))),
    ];
    let contestants = bench.contestants(&[bench.mailrecv(ONE_RULE)?, bench.do_nothing(), bench.do_nothing_durable()]);
    let mail = message(50_000_000);
    bench.measure(figures, bench.few_runs(), &contestants, |contestant, listener| {
        rate_and_memory(contestant, listener, &mail)
    });
    Ok(())
}

/// Of one message, in MB/s and KiB.
pub(crate) fn rate_and_memory(contestant: &Contestant, listener: &TcpListener, mail: &[u8]) -> Result<[f64; 2]> {
    contestant.empty_mailbox()?;
    let mut session = Session::open(contestant, listener)?;
    session.offer(&[RECIPIENT])?;
    let began = Instant::now();
    session.data(mail)?;
    let rate = mail.len() as f64 / 1e6 / began.elapsed().as_secs_f64();
    // Not ru_maxrss: that starts from the size of the process that forked, and ours holds the message.
    let peak = session.memory("status", "VmHWM:")?;
    session.quit()?;
    contestant.check_mailbox_grew(0, mail.len())?;
    contestant.empty_mailbox()?;
    Ok([rate, peak])
}

/// What waiting for each other costs those who append to one mailbox at once.
pub(crate) fn writers(bench: &mut Bench) -> Result<()> {
    const MESSAGES: usize = 640;
    const ALONE: &str = "mailrecv, 1 session";
    let what = "messages into one mailbox, 64 sessions";
    let figures = [Figure::new(what, Unit::PerSecond, Some(Target::RatioAtLeast(0.7)))];
    let contestants = [bench.mailrecv(ONE_RULE)?, bench.mailrecv(ONE_RULE)?.named(ALONE)];
    let mail = message(1_000);
    bench.measure(figures, bench.few_runs(), &contestants, |contestant, listener| {
        contestant.empty_mailbox()?;
        let count = if contestant.name == ALONE { 1 } else { 64 };
        let mut sessions = (0..count).map(|_| Session::open(contestant, listener)).collect::<Result<Vec<_>>>()?;
        let began = Instant::now();
        let sent: Result<()> = thread::scope(|scope| {
            let send = |session: &mut Session| {
                (0..MESSAGES / count).try_for_each(|_| {
                    session.offer(&[RECIPIENT])?;
                    session.data(&mail)
                })
            };
            let threads: Vec<_> = sessions
                .iter_mut()
                .map(|session| scope.spawn(move || send(session).map_err(|problem| problem.to_string())))
                .collect();
            threads
                .into_iter()
                .try_for_each(|thread| thread.join().map_err(|_| "a writer panicked")?.map_err(Into::into))
        });
        sent?;
        let rate = MESSAGES as f64 / began.elapsed().as_secs_f64();
        sessions.iter_mut().try_for_each(Session::quit)?;
        contestant.check_mailbox_grew(0, MESSAGES * mail.len())?;
        contestant.empty_mailbox()?;
        Ok([rate])
    });
    Ok(())
}

/// Memory of a session that waits after EHLO. Processes share the pages of their program, and a busy receiver has many,
/// so the target is for one among fifty; a session that is alone has the whole program counted as its own.
pub(crate) fn idle(bench: &mut Bench) -> Result<()> {
    let contestants = bench.contestants(&[bench.mailrecv(ONE_RULE)?, bench.do_nothing()]);
    for (what, connections, target) in [("one of 50", 50, Some(Target::AtMost(300.0))), ("alone", 1, None)] {
        let figures = [Figure::new(&format!("idle connection, {what}, PSS"), Unit::Kibibytes, target)];
        bench.measure(figures, bench.few_runs(), &contestants, |contestant, listener| {
            let open = |_| Session::open(contestant, listener);
            let mut sessions = (0..connections).map(open).collect::<Result<Vec<_>>>()?;
            sessions.iter_mut().try_for_each(Session::hello)?;
            let memory = sessions.first().ok_or("no session")?.memory("smaps_rollup", "Pss:")?;
            sessions.iter_mut().try_for_each(Session::quit)?;
            Ok([memory])
        });
    }
    Ok(())
}

/// What it costs to be confined: the process that runs commands where one is within the peer's reach, Landlock, and a
/// list of system calls.
pub(crate) fn sandbox(bench: &mut Bench) -> Result<()> {
    let mail = message(1_000);
    for (what, with, without, rival) in [
        ("a pipe within reach", PIPE, "", "mailrecv, no pipe"),
        ("sandbox on", "", "sandbox off\n", "mailrecv, sandbox off"),
        ("sandbox strict", "sandbox strict\n", "", "mailrecv, sandbox on"),
    ] {
        let figures = ["connect to exit", "one small mail, connect to exit"]
            .map(|course| Figure::new(&format!("{what}, {course}"), Unit::AddedMilliseconds, None));
        let ours = bench.mailrecv(&format!("{ONE_RULE}{with}"))?;
        let contestants = [ours, bench.mailrecv(&format!("{ONE_RULE}{without}"))?.named(rival)];
        bench.measure(figures, bench.runs(), &contestants, |contestant, listener| {
            let mut session = Session::open(contestant, listener)?;
            session.quit()?;
            let without_mail = session.connected.elapsed();
            let mut session = Session::open(contestant, listener)?;
            session.offer(&[RECIPIENT])?;
            session.data(&mail)?;
            session.quit()?;
            Ok([milliseconds(without_mail), milliseconds(session.connected.elapsed())])
        });
    }
    Ok(())
}

/// A rule with a command that nobody asks for.
pub(crate) const PIPE: &str = "deliver rcpt_to robot@localhost pipe cat >/dev/null\n";

pub(crate) const ONE_RULE: &str = "deliver rcpt_to postmaster@localhost append \"{dir}/mailbox-mailrecv\"\n";

/// Every mail server takes mail for its postmaster, so `--against` needs no account.
pub(crate) const RECIPIENT: &str = "postmaster@localhost";

/// A message of about `size` bytes that looks like one with an attachment, ready to be sent behind DATA.
pub(crate) fn message(size: usize) -> Vec<u8> {
    let mut message = b"From: Bench <bench@localhost>\r\nTo: Postmaster <postmaster@localhost>\r\n\
        Date: Sat, 21 Nov 2026 01:32:50 +0000\r\nMessage-ID: <1@bench.localhost>\r\nSubject: bench\r\n\r\n"
        .to_vec();
    while message.len() < size {
        message.extend_from_slice(b"VGhlIHF1aWNrIGJyb3duIGZveCBqdW1wcyBvdmVyIHRoZSBsYXp5IGRvZy4gVGhlIHF1aWNrIGJy\r\n");
    }
    message.extend_from_slice(b".\r\n");
    message
}

/// The same as a page with many links.
fn page(size: usize) -> Vec<u8> {
    let mut page = b"Subject: page\r\nContent-Type: text/html; charset=utf-8\r\n\r\n<body>\r\n".to_vec();
    while page.len() < size {
        page.extend_from_slice(
            b"<p class=\"x\">Dear&nbsp;<b>Fred</b>, <a href=\"https://a.example/?x=1&amp;y=2\">here</a></p>\r\n",
        );
    }
    page.extend_from_slice(b".\r\n");
    page
}

pub(crate) fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}
