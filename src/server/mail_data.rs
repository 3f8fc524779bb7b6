//! What becomes of the text of a message: it goes into the spool, is delivered, and answered for.

use std::convert::Infallible;
use std::rc::Rc;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use super::{Outside, Server};
use crate::config::Config;
use crate::deliver::{self, Context, Records};
use crate::log::{Event, Log};
use crate::message::{Envelope, Lines, Spool, SpoolFile};
use crate::metrics::Family;
use crate::smtp::reply::Reply;
use crate::smtp::session::Session;
use crate::smtp::{Delivery, Step};

/// The mail data of the current transaction (RFC 5321, 4.1.1.4). The spool is boxed: it goes from state to state.
#[derive(Default)]
pub(super) enum MailData {
    /// None has come.
    #[default]
    None,
    /// It is coming, or it is complete and refused as a whole.
    Coming(Box<Spool>),
    /// It is complete and being delivered, while its recipients are answered.
    Processing(Message),
}

/// A message that is being delivered.
pub(super) struct Message {
    id: String,
    spool: Box<Spool>,
    /// Whether any recipient has it.
    is_delivered: bool,
    /// Whether any of them had not had it before.
    is_new: bool,
    /// A delivery that is neither counted nor logged yet.
    unlogged: Option<Delivery>,
}

impl MailData {
    /// Adds text that has come, to the spool that there is or to a new one.
    pub(super) fn push(&mut self, text: &[u8], new_spool: impl FnOnce() -> Box<Spool>) {
        let mut spool = match std::mem::take(self) {
            MailData::Coming(spool) => spool,
            MailData::None | MailData::Processing(_) => new_spool(),
        };
        spool.push(text);
        *self = MailData::Coming(spool);
    }
}

impl Server<'_> {
    /// Delivers the message to a group of its recipients; the session turns the outcome into the next step.
    /// It is kept out of its caller, whose stack would otherwise have room for a delivery in each session.
    #[inline(never)]
    pub(super) fn deliver<'s>(&mut self, session: &mut Session<'s>, delivery: Delivery, outside: Outside<'_>) -> Step {
        let Outside { peer, runner, upstreams } = outside;
        let mut message = match std::mem::take(&mut self.mail_data) {
            MailData::Processing(message) => message,
            MailData::Coming(spool) => self.new_message(spool),
            MailData::None => {
                let spool = new_spool(self.config, self.records, &mut self.spool_file);
                self.new_message(spool)
            }
        };
        let tls = self.tls.as_ref();
        let (domain, user, transaction) = (&self.config.domain, session.user(), &delivery.transaction);
        let received_at = SystemTime::now();
        let envelope = Envelope { id: &message.id, domain, peer, received_at, transaction, tls, user };
        let Self { config, log, signals, tally, reporter, records, opened, .. } = *self;
        let context = Context {
            config,
            log,
            signals,
            tally,
            deadline: self.deadlines.message(),
            runner,
            brokers: &opened.brokers,
            upstreams,
            reporter,
            records,
        };
        upstreams.set_deadline(context.deadline);
        let began = Instant::now();
        let outcome = deliver::deliver(&context, &envelope, delivery.recipients(), &mut message.spool);
        self.deadlines.not_idle();
        tally.observe(Family::DeliveryTime, began);
        let is_delivered = outcome.is_ok();
        self.recording.with(|recorder| recorder.delivered(&outcome, &message.id));
        let step = session.delivered(outcome, &message.id);
        if is_delivered {
            self.deadlines.message_accepted();
            if !message.is_delivered {
                self.messages += 1;
                tally.count(const { Family::Messages.with("accepted") });
                tally.add(Family::AcceptedOctets.counter(), delivery.transaction.size);
            }
            self.confirmation.delivered(&message.id, &delivery);
            message.is_delivered = true;
            message.unlogged = Some(delivery);
        }
        self.mail_data = MailData::Processing(message);
        step
    }

    /// Sends a reply, or queues it if it is not the answer to a message and few others are queued. The answer to a
    /// message leaves at once, even if the peer has sent more already: until it leaves, the message is delivered and
    /// the peer does not know. So it also comes before freeing the spool and, if it is a 250, before writing to the
    /// log, which may take time.
    pub(super) fn answer(&mut self, reply: &Reply, session: &Session<'_>) -> std::io::Result<()> {
        let enhanced = session.is_extended();
        let (sent, mail_data) = match std::mem::take(&mut self.mail_data) {
            MailData::Processing(Message { id, spool, is_delivered, is_new, unlogged: Some(delivery) }) => {
                self.recording.with(|recorder| recorder.reply(reply, enhanced));
                reply.encode(enhanced, self.connection.replies());
                self.confirmation.answer_leaves(&mut self.connection, self.records);
                let sent = self.flush();
                let repeated = self.records.map(Records::take_repeated).unwrap_or_default();
                let is_new = deliver::count_delivery(self.tally, &delivery, &repeated) || is_new;
                deliver::log_delivery(self.log, &id, &delivery, reply, &repeated);
                self.log.event(&Event::Reply(reply));
                (sent, MailData::Processing(Message { id, spool, is_delivered, is_new, unlogged: None }))
            }
            mail_data => {
                self.send(reply, enhanced);
                // This is not the answer to a message.
                if matches!(mail_data, MailData::None) || session.has_text() {
                    self.mail_data = mail_data;
                    let may_wait = self.connection.replies().len() < MAX_QUEUED_REPLIES;
                    return if may_wait { Ok(()) } else { self.flush() };
                }
                (self.flush(), mail_data)
            }
        };
        let is_processed = matches!(mail_data, MailData::Processing(_));
        self.mail_data = mail_data;
        if !session.is_answering() {
            self.count_refused_message(reply);
            if matches!(&self.mail_data, MailData::Processing(Message { is_delivered: true, is_new: false, .. })) {
                self.tally.count(Family::MessagesRepeated.counter());
            }
            self.give_up_text();
            // If this session is killed later, what happened until here has been counted.
            if is_processed && let Some(why) = self.tally.hand_over() {
                self.log.event(&Event::NotCounted(&why));
            }
        }
        sent
    }

    /// Frees the text of a message that is answered, or that the peer gave up between its chunks.
    pub(super) fn give_up_text(&mut self) {
        self.mail_data = MailData::None;
        log_letter(self.log, &mut self.letter, &[], true);
    }

    /// Counts a refused message: text of one has come, nobody has it, and this last reply about it says no.
    pub(super) fn count_refused_message(&self, last_word: &Reply) {
        let nobody_has_it = match &self.mail_data {
            MailData::None => false,
            MailData::Coming(_) => true,
            MailData::Processing(message) => !message.is_delivered,
        };
        if nobody_has_it && last_word.is_negative() {
            self.tally.count(match last_word.is_permanent() {
                true => const { Family::Messages.with("refused") },
                false => const { Family::Messages.with("deferred") },
            });
        }
    }

    /// The message has an identifier that is unique on this machine: the time, this process, and a count.
    fn new_message(&self, spool: Box<Spool>) -> Message {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let (seconds, micros, process) = (now.as_secs(), now.subsec_micros(), std::process::id());
        let id = format!("{seconds:x}.{micros:05x}.{process:x}.{:x}", self.messages);
        Message { id, spool, is_delivered: false, is_new: false, unlogged: None }
    }
}

pub(super) fn new_spool(config: &Config, records: Option<&Records>, file: &mut Option<Rc<SpoolFile>>) -> Box<Spool> {
    let file = file.get_or_insert_with(|| Rc::new(SpoolFile::open(config.spool_dir.as_ref())));
    let spool = Spool::new(Rc::clone(file));
    Box::new(if records.is_some() { spool.with_hash() } else { spool })
}

/// Logs the lines that end in this piece of a message, and at the message's end the rest as well.
pub(super) fn log_letter(log: &Log, letter: &mut Lines, text: &[u8], has_ended: bool) {
    let mut log_line = |line: &[u8]| {
        log.event(&Event::Letter(line));
        Ok::<(), Infallible>(())
    };
    let _ = letter.push(text, &mut log_line);
    if has_ended {
        let _ = letter.finish(log_line);
    }
}

/// When this many octets of replies are queued they leave, although there is more input: 64 KiB of input can be `HELP`
/// ten thousand times. Replies to a group of commands that sends mail need far less (RFC 2920, 3.2).
const MAX_QUEUED_REPLIES: usize = 64 * 1024;
