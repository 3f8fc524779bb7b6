//! What publishing with a broker costs, one on this machine: `tests/run` installs both kinds.

use testkit::hpfeeds::{self, Broker, CHANNEL, SECRET};
use testkit::rabbitmq::{self, RabbitMq};

use crate::Result;
use crate::bench::Bench;
use crate::sessions::{ONE_RULE, RECIPIENT, message, time_of_mail};
use crate::table::{Figure, Unit};

pub(crate) fn brokers(bench: &mut Bench) -> Result<()> {
    if hpfeeds::is_installed() {
        let broker = Broker::start();
        let who = format!("hpfeeds_ident writer\nhpfeeds_secret {SECRET}\nhpfeeds_broker {}", broker.address);
        let rules = format!("deliver rcpt_to {RECIPIENT} hpfeeds {CHANNEL}\n{who}\n");
        publish(bench, "hpfeeds", &rules)?;
    } else {
        bench.failures.push("hpfeeds: tests/run installs its broker".to_owned());
    }
    if rabbitmq::is_installed() {
        let rabbit = RabbitMq::start(1, "");
        rabbit.pika("channel(ports[0]).queue_declare('mail', durable=True)");
        let url = format!("amqp_url amqp://{}", rabbit.address(0));
        let rules = format!("deliver rcpt_to {RECIPIENT} amqp \"\" mail\n{url}\n");
        publish(bench, "amqp", &rules)?;
    } else {
        bench.failures.push("amqp: tests/run installs RabbitMQ".to_owned());
    }
    Ok(())
}

fn publish(bench: &mut Bench, what: &str, rules: &str) -> Result<()> {
    let mut published = bench.mailrecv(rules)?;
    published.mailbox = None;
    let contestants = [published, bench.mailrecv(ONE_RULE)?.named("mailrecv, to a file")];
    let figures = [Figure::new(&format!("{what}, one small mail, connect to exit"), Unit::Milliseconds, None)];
    let mail = message(1_000);
    bench.measure(figures, bench.runs(), &contestants, |contestant, listener| {
        time_of_mail(contestant, listener, &[RECIPIENT], &mail)
    });
    Ok(())
}
