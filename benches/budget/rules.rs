//! What many rules cost: to a session that is after one of them, and to `mailrecv check`.

use std::net::TcpListener;
use std::process::{Command, Stdio};
use std::time::Instant;

use crate::Result;
use crate::bench::Bench;
use crate::contest::{Contestant, Session};
use crate::sessions::{RECIPIENT, milliseconds};
use crate::table::{Figure, Target, Unit};

/// What many exact addresses cost by the time of the greeting, and by the time that the last of them was looked up.
pub(crate) fn exact_addresses(bench: &mut Bench) -> Result<()> {
    for (count, target) in [(10_000, 1.0), (100_000, 8.0)] {
        for form in [PLAIN, IN_A_GROUP, TO_MAILDIRS, WITH_RUNS_OF_BLANKS] {
            let target = Some(Target::AddsAtMost(target));
            let what = |until| format!("{count} {}, exec to {until}", form.what);
            let figures = [
                Figure::new(&what("greeting"), Unit::AddedMilliseconds, target),
                Figure::new(&what("RCPT of the last"), Unit::AddedMilliseconds, target),
            ];
            let contestants =
                [bench.mailrecv(&form.rules(1..=count))?, bench.mailrecv(&form.rules(count..=count))?.named(ONE_RULE)];
            bench.measure(figures, bench.runs(), &contestants, |contestant, listener| {
                let mut session = Session::open(contestant, listener)?;
                session.offer(&[&format!("user{count}@example.com")])?; // and no DATA: nothing is written there
                let to_recipient = session.started.elapsed();
                session.quit()?;
                Ok([milliseconds(session.to_greeting), milliseconds(to_recipient)])
            });
        }
    }
    Ok(())
}

/// The same for a file that has an index: beside one rule, and beside the same file without its index.
pub(crate) fn indexed_addresses(bench: &mut Bench) -> Result<()> {
    for (count, target) in [(10_000, 0.5), (100_000, 2.0)] {
        for form in [PLAIN, IN_A_GROUP] {
            let what = |until| format!("{count} {} and their index, exec to {until}", form.what);
            let figures = |unit, target| {
                [what("greeting"), what("RCPT of the last")].map(|what| Figure::new(&what, unit, target))
            };
            let rules = form.rules(1..=count);
            let [indexed, without] = [bench.mailrecv(&rules)?, bench.mailrecv(&rules)?.named("mailrecv, no index")];
            let made = Command::new(&indexed.program).args(&indexed.arguments).args(["check", "--index"]).output()?;
            if !made.status.success() || !String::from_utf8_lossy(&made.stdout).contains("index of") {
                return Err(format!("no index: {made:?}").into());
            }
            let one_rule = bench.mailrecv(&form.rules(count..=count))?.named(ONE_RULE);
            let ask = |contestant: &Contestant, listener: &TcpListener| {
                let mut session = Session::open(contestant, listener)?;
                session.offer(&[&format!("user{count}@example.com")])?; // as above
                let to_recipient = session.started.elapsed();
                session.quit()?;
                Ok([milliseconds(session.to_greeting), milliseconds(to_recipient)])
            };
            let added = figures(Unit::AddedMilliseconds, Some(Target::AddsAtMost(target)));
            bench.measure(added, bench.runs(), &[indexed.clone(), one_rule], ask);
            bench.measure(figures(Unit::Milliseconds, None), bench.runs(), &[indexed, without], ask);
        }
    }
    Ok(())
}

/// A way to write a rule for one address; `N` is its number.
#[derive(Clone, Copy)]
pub(crate) struct Form {
    pub(crate) what: &'static str,
    above: &'static str,
    rule: &'static str,
}

impl Form {
    pub(crate) fn rules(self, numbers: impl Iterator<Item = u32>) -> String {
        let rules = numbers.map(|number| self.rule.replace('N', &number.to_string()));
        [self.above.to_owned()].into_iter().chain(rules).collect()
    }
}

pub(crate) const PLAIN: Form =
    Form { what: "exact rules", above: "", rule: "deliver rcpt_to userN@example.com append /var/mail/userN\n" };

pub(crate) const IN_A_GROUP: Form = Form {
    what: "exact rules with a group",
    above: "allowgroup +l net 127.0.0.0/8\n",
    rule: "deliver allowgroup +l rcpt_to userN@example.com append /var/mail/userN\n",
};

const TO_MAILDIRS: Form = Form {
    what: "exact rules for maildirs",
    above: "",
    rule: "deliver rcpt_to userN@example.com maildir /var/mail/userN/\n",
};

const WITH_RUNS_OF_BLANKS: Form = Form {
    what: "exact rules in columns",
    above: "",
    rule: "deliver\t rcpt_to   userN@example.com\t\tappend    /var/mail/userN\n",
};

const ONE_RULE: &str = "mailrecv, 1 rule";

/// What many patterns cost a recipient that has to be tried against all of them: it matches none and is delivered by a
/// pattern below them, since an exact address would be found before any pattern is looked at.
pub(crate) fn error_patterns(bench: &mut Bench) -> Result<()> {
    let figures = [Figure::new("1000 `error` patterns, exec to RCPT", Unit::AddedMilliseconds, None)];
    let error = |number| {
        let pattern = match number % 4 {
            0 => format!("^former{number}@"),
            1 => format!("old-list-{number}"),
            2 => format!("[0-9][0-9]+-{number}@localhost$"),
            _ => format!("^(sales|info)\\.{number}.*@"),
        };
        format!("error rcpt_to {pattern} 550 No longer here\n")
    };
    let deliver = "deliver rcpt_to *@localhost append \"{dir}/mailbox-mailrecv\"\n";
    let config = |count| (1..=count).map(error).collect::<String>() + deliver;
    let contestants = [bench.mailrecv(&config(1000))?, bench.mailrecv(&config(1))?.named("mailrecv, 1 pattern")];
    bench.measure(figures, bench.runs(), &contestants, |contestant, listener| {
        let mut session = Session::open(contestant, listener)?;
        session.offer(&[RECIPIENT])?;
        let to_recipient = session.started.elapsed();
        session.quit()?;
        Ok([milliseconds(to_recipient)])
    });
    Ok(())
}

/// What it takes to find many lines that are never used, in a file that also has everything that slow ways stumble on.
pub(crate) fn check(bench: &mut Bench) -> Result<()> {
    const FINDINGS: u32 = 5_000;
    let what = "check, 105001 rules, 5000 findings";
    let figures = [Figure::new(what, Unit::Milliseconds, Some(Target::AtMost(1_000.0)))];
    let good =
        PLAIN.rules(1..=100_000) + IN_A_GROUP.above + "deliver rcpt_to postmaster@localhost append /var/mail/root\n";
    let bad = PLAIN.rules(1..=FINDINGS).replace("/var/mail/", "/var/spool/");
    let contestants = [bench.mailrecv(&(good.clone() + &bad))?, bench.mailrecv(&good)?.named("mailrecv, no finding")];
    bench.measure(figures, 3, &contestants, |contestant, _| {
        let mut command = Command::new(&contestant.program);
        let began = Instant::now();
        let output = command.args(&contestant.arguments).args(["check", "-v"]).stdin(Stdio::null()).output()?;
        let time = began.elapsed();
        let findings = String::from_utf8_lossy(&output.stderr).matches("is never used").count();
        let expected = if contestant.name.contains("no finding") { 0 } else { FINDINGS as usize };
        if findings != expected || !output.status.success() {
            return Err(format!("{findings} findings, {}", output.status).into());
        }
        Ok([milliseconds(time)])
    });
    Ok(())
}
