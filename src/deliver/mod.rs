//! Delivery of one message to all of its destinations, or to none.
//!
//! There is no queue, so the order does it: what can be taken back is written and synced first ([`mbox`], [`maildir`],
//! [`eml`], [`print`]). Then the one destination that cannot take the message back gets it ([`pipe`], [`hpfeeds`],
//! [`amqp`], [`relay`]). Only then is the rest committed, which is no more than a rename. On every way out, whatever is
//! prepared and not committed is taken back when its value is dropped.
//!
//! Each phase has one `match` over all destinations without `_`, so that a new destination has to be added to it.

mod amqp;
mod brokers;
pub(crate) mod eml;
mod frames;
mod hpfeeds;
mod maildir;
mod mbox;
pub mod mboxrd;
mod once;
mod pipe;
mod print;
mod record;
mod records;
mod relay;
pub(crate) mod report;
pub(crate) mod runner;

use std::cmp::Ordering;
use std::fmt::Display;
use std::io;
use std::os::fd::AsFd;
use std::path::Path;
use std::time::{Duration, Instant};

pub(crate) use brokers::Brokers;
use once::Once;
pub(crate) use pipe::Runner;
pub use print::letter_lines;
use record::Place;
pub(crate) use records::{Records, Repeated};
pub(crate) use relay::{RelayFiles, Upstreams};
use report::Report;
pub(crate) use report::Reporter;

use crate::address::Mailbox;
use crate::config::{Config, Facts, HandOver, Hop, Keep};
use crate::files;
use crate::log::{Event, Log};
use crate::message::{Envelope, RecipientCopy, Spool};
use crate::metrics::{Counter, Family, Tally};
use crate::panics;
use crate::signals::Signals;
use crate::smtp::reply::{self, Reply};
use crate::smtp::transaction::{Recipient, Transaction};
use crate::smtp::{Delivery, Outcome};

/// What a delivery needs besides the message.
pub(crate) struct Context<'a> {
    /// Limits, names and all other settings.
    pub(crate) config: &'a Config,
    /// Where events go.
    pub(crate) log: &'a Log,
    /// Where requests to stop arrive.
    pub(crate) signals: &'a Signals,
    /// What this process counts.
    pub(crate) tally: &'a Tally,
    /// When the connection has to be over.
    pub(crate) deadline: Instant,
    /// What runs commands.
    pub(crate) runner: &'a Runner<'a>,
    /// Files and connections for publishing.
    pub(crate) brokers: &'a Brokers,
    /// The servers that messages are passed on to.
    pub(crate) upstreams: &'a Upstreams<'a>,
    /// Where messages are reported, if `listen --json` wants that.
    pub(crate) reporter: Option<&'a Reporter>,
    /// Which messages were delivered already, if `exactly_once` wants to know.
    pub(crate) records: Option<&'a Records>,
}

impl Context<'_> {
    /// Tells that something which was refused could not be taken back.
    fn not_taken_back(&self, path: &Path, why: &dyn Display) {
        if let Some(records) = self.records {
            records.note_left_behind();
        }
        self.log.event(&Event::NotTakenBack { path, why });
    }
}

/// Delivers the message to these recipients, who share one answer: to every destination, on stable storage or taken
/// over by somebody who is responsible then, or to none.
pub(crate) fn deliver(
    context: &Context<'_>,
    envelope: &Envelope<'_>,
    group: &[Recipient],
    spool: &mut Spool,
) -> Outcome {
    if let Some(error) = spool.failure() {
        return Err(failure(error, "keeping a large message while it is received"));
    }
    if spool.hops() > MAX_HOPS {
        return Err(reply::too_many_hops(spool.hops()));
    }
    let mut once = Once::begin(context, envelope, group, spool)?;
    if let Some(answer) = answered_before(&once) {
        return Ok(Some(answer));
    }
    let kept = keep(context, envelope, group, spool, &mut once)?;
    if let Some(answer) = answered_before(&once) {
        kept.mailboxes.commit();
        return Ok(Some(answer));
    }
    let is_handed_over = group.iter().any(|recipient| recipient.destinations.are_handed_over());
    if is_handed_over {
        // The hand-over cannot be taken back, so a mailbox in doubt stops it first.
        kept.mailboxes.verify().inspect_err(failed(context, APPEND))?;
    }
    let words = hand_over(context, envelope, group, spool, &mut once)?;
    kept.commit(context, envelope.id, is_handed_over)?;
    once.commit();
    Ok(words)
}

/// The answer to a message that had already been delivered to all of its destinations.
fn answered_before(once: &Once<'_>) -> Option<Reply> {
    let answer = reply::accepted_before(once.all_before()?);
    once.tell();
    Some(answer)
}

/// Logs a finished delivery, one line for each recipient and destination. It is called after the peer has got its
/// answer, `reply`, which must not wait for the log. A server that has taken the message over may have worded that
/// reply. `repeated` are the deliveries that had been done before.
pub(crate) fn log_delivery(log: &Log, id: &str, delivery: &Delivery, reply: &Reply, repeated: &[Repeated]) {
    let Transaction { reverse_path, size, .. } = &*delivery.transaction;
    for recipient in delivery.recipients() {
        let hop = recipient.destinations.hop().map(Hop::shown);
        for (action, _) in recipient.destinations.shown() {
            let is_relayed = hop.is_some() && action.operands[0] == hop;
            let (to, said) = (&recipient.mailbox, is_relayed.then_some(reply));
            let first = find_repeated(repeated, to, &action).map(|repeated| &*repeated.first);
            log.event(&Event::Delivered { id, from: reverse_path, to, size, action: &action, said, first });
        }
    }
}

/// Counts a finished delivery for each recipient and destination; `repeated` are those that had been done before. Returns
/// whether there are others.
pub(crate) fn count_delivery(tally: &Tally, delivery: &Delivery, repeated: &[Repeated]) -> bool {
    let mut is_new = false;
    for recipient in delivery.recipients() {
        for (action, _) in recipient.destinations.shown() {
            let family = match find_repeated(repeated, &recipient.mailbox, &action) {
                None => Family::Deliveries,
                Some(_) => Family::DeliveriesRepeated,
            };
            is_new |= family == Family::Deliveries;
            tally.count(family.with_any(action.name));
        }
    }
    is_new
}

/// The entry of this recipient and destination among those that had been done before.
fn find_repeated<'r>(repeated: &'r [Repeated], to: &Mailbox, action: &Facts<'_>) -> Option<&'r Repeated> {
    if repeated.is_empty() {
        return None;
    }
    let (to, action) = (to.to_string(), action.to_string());
    repeated.iter().find(|it| it.to == to && it.action == action)
}

/// Prepares everything that can be taken back.
fn keep<'a>(
    context: &'a Context<'a>,
    envelope: &'a Envelope<'a>,
    group: &'a [Recipient],
    spool: &mut Spool,
    once: &mut Once<'_>,
) -> Result<Kept<'a>, Reply> {
    let copies = copies(group, once);
    let names = copies.iter().filter_map(|copy| match copy.action {
        Keep::Append(name) => Some((name.as_str(), copy.recipients())),
        Keep::Maildir(_) | Keep::Eml(_) | Keep::Print(_) | Keep::Discard => None,
    });
    let mut kept = Kept {
        maildirs: maildir::Maildirs::new(context),
        files: eml::Files::new(context),
        mailboxes: mbox::Mailboxes::new(context, names),
        shown: print::Shown::new(context),
        report: None,
    };
    // Mailboxes that others may wait for are locked last, when nothing is left that could make us wait.
    let mut for_files = Vec::new();
    for shared in copies {
        let (action, copy) = (shared.action, shared.of(envelope));
        let mut note = |place: &Place| once.note(copy.recipients(), action, place);
        let mut file = None;
        let prepared = match action {
            Keep::Maildir(directory) => kept.maildirs.add(directory, copy, spool).map(|place| note(&place)),
            Keep::Eml(directory) => kept.files.add(directory, copy, spool).map(|place| note(&place)),
            Keep::Append(name) => kept.mailboxes.write_to_stream(name, copy, spool).map(|is_done| {
                file = (!is_done).then_some(name.as_str());
            }),
            Keep::Print(view) => kept.shown.show(*view, copy, spool),
            Keep::Discard => Ok(()),
        };
        let counter = Family::DeliveryFailures.with_any(action.name());
        prepared.map_err(about(copy.recipients())).inspect_err(failed(context, counter))?;
        for_files.extend(file.map(|name| (name, shared)));
    }
    if let Some(reporter) = context.reporter {
        kept.report = Some(reporter.prepare(envelope, group, spool, &mut kept.files)?);
    }
    if let Some(panic) = panics::take_kept() {
        context.log.event(&Event::NotDecoded(envelope.id, &panic));
    }
    append(context, envelope, for_files, &mut kept.mailboxes, spool, once).inspect_err(failed(context, APPEND))?;
    Ok(kept)
}

/// Appends copies to the files of these names, which are locked from here on. Those that an earlier session delivered
/// are left out.
fn append(
    context: &Context<'_>,
    envelope: &Envelope<'_>,
    mut copies: Vec<(&str, Copy<'_>)>,
    mailboxes: &mut mbox::Mailboxes<'_>,
    spool: &mut Spool,
    once: &mut Once<'_>,
) -> Result<(), Reply> {
    if context.records.is_some() {
        // What is torn is cut off before places are noted, which are behind it.
        let mut missing = Vec::new();
        for (name, shared) in copies {
            let left = find_missing(name, &shared, envelope, mailboxes, once, spool);
            let left = left.map_err(about(shared.of(envelope).recipients()))?;
            missing.extend(left.map(|shared| (name, shared)));
        }
        copies = missing;
        for (name, shared) in &copies {
            let copy = shared.of(envelope);
            if let Some(stretch) = mailboxes.next(name, copy, spool).map_err(about(copy.recipients()))? {
                once.note(copy.recipients(), shared.action, &Place::Mailbox(stretch));
            }
        }
        once.prepare();
    }
    for (name, shared) in &copies {
        let copy = shared.of(envelope);
        mailboxes.append(name, copy, spool).map_err(about(copy.recipients()))?;
    }
    mailboxes.sync()
}

/// Looks into a mailbox, which this locks, for a copy that an earlier session delivered. Returns the copy for those
/// recipients who have none there yet; `None` if all have one.
fn find_missing<'a>(
    name: &str,
    shared: &Copy<'a>,
    envelope: &Envelope<'_>,
    mailboxes: &mut mbox::Mailboxes<'_>,
    once: &mut Once<'_>,
    spool: &mut Spool,
) -> Result<Option<Copy<'a>>, Reply> {
    let (action, copy) = (shared.action, shared.of(envelope));
    let mut missing = Vec::new();
    for recipient in shared.recipients() {
        let look = |stretch: &_, is_unanswered| mailboxes.has(name, stretch, is_unanswered, copy, spool);
        if !once.look(recipient, action, look)? {
            missing.push(recipient);
        }
    }
    let Some((recipient, others)) = missing.split_first() else { return Ok(None) };
    Ok(Some(Copy { action, recipient, others: others.to_vec() }))
}

/// A copy for one destination, which several recipients may share.
struct Copy<'a> {
    action: &'a Keep,
    recipient: &'a Mailbox,
    /// The other recipients who share it.
    others: Vec<&'a Mailbox>,
}

impl<'a> Copy<'a> {
    /// The copy of the message with this envelope.
    fn of<'c>(&'c self, envelope: &'c Envelope<'c>) -> RecipientCopy<'c> {
        RecipientCopy { envelope, recipient: self.recipient, others: &self.others }
    }

    fn recipients(&self) -> Vec<&'a Mailbox> {
        [&[self.recipient], &self.others[..]].concat()
    }
}

/// One copy for each destination, in the order of [`Keep`], shared by all recipients whose mail goes there. Recipients
/// whose mail had been delivered there before are left out.
fn copies<'a>(group: &'a [Recipient], once: &Once<'_>) -> Vec<Copy<'a>> {
    let mut copies: Vec<Copy<'_>> = Vec::new();
    for Recipient { mailbox, destinations, .. } in group {
        for destination in &destinations.keep {
            if once.is_kept(mailbox, &destination.action) {
                continue;
            }
            match copies.iter_mut().find(|copy| *copy.action == destination.action) {
                // A `copy` line may name the same place as the `deliver` line.
                Some(copy) if copy.recipient == mailbox || copy.others.last() == Some(&mailbox) => {}
                Some(copy) => copy.others.push(mailbox),
                None => copies.push(Copy { action: &destination.action, recipient: mailbox, others: Vec::new() }),
            }
        }
    }
    copies.sort_by(|one, other| match (one.action, other.action) {
        // Copies in maildirs stay in the order of the recipients.
        (Keep::Maildir(_), Keep::Maildir(_)) => Ordering::Equal,
        (one, other) => one.cmp(other),
    });
    copies
}

/// Hands the message over to the destination that cannot take it back. The session makes sure that there is at most
/// one, for one or more recipients. Returns its words, if they are to be passed on to the peer.
fn hand_over(
    context: &Context<'_>,
    envelope: &Envelope<'_>,
    group: &[Recipient],
    spool: &mut Spool,
    once: &mut Once<'_>,
) -> Outcome {
    let (mut words, mut handed_over) = (None, None::<&Recipient>);
    for recipient in group {
        let Some(to) = &recipient.destinations.hand_over else { continue };
        if once.is_handed_over(&recipient.mailbox, &to.action) {
            continue;
        }
        // One server takes the message once for all recipients whose mail goes there.
        if handed_over.is_some_and(|other| other.destinations.share_hand_over(&recipient.destinations)) {
            continue;
        }
        handed_over = Some(recipient);
        let shares = |other: &&Recipient| {
            std::ptr::eq(*other, recipient) || other.destinations.share_hand_over(&recipient.destinations)
        };
        let recipients = group.iter().filter(shares).map(|recipient| &recipient.mailbox);
        let recipients: Vec<_> = recipients.filter(|recipient| !once.is_handed_over(recipient, &to.action)).collect();
        let copy = RecipientCopy { envelope, recipient: &recipient.mailbox, others: &[] };
        let hash = once.hash(&recipient.mailbox, &to.action);
        let taken_over = match &to.action {
            HandOver::Pipe(form, command) => pipe::run(context, command, *form, copy, &hash, spool),
            HandOver::Hpfeeds(channel) => hpfeeds::publish(context, channel, spool),
            HandOver::Amqp(topic) => amqp::publish(context, topic, copy, spool),
            HandOver::Relay(hop) => {
                context.upstreams.deliver(hop, &recipients, copy, spool).map(|said| words = Some(said))
            }
        };
        let counter = Family::DeliveryFailures.with_any(to.action.name());
        taken_over.map_err(about(recipients.iter().copied())).inspect_err(failed(context, counter))?;
        once.is_taken_over(&recipients, &to.action);
    }
    Ok(words)
}

/// Everything that was prepared. It is taken back if this is dropped before [`Kept::commit`].
struct Kept<'a> {
    maildirs: maildir::Maildirs<'a>,
    files: eml::Files<'a>,
    mailboxes: mbox::Mailboxes<'a>,
    shown: print::Shown<'a>,
    report: Option<Report<'a>>,
}

impl Kept<'_> {
    /// Makes everything stay. The steps that can fail come first, while everything can still be taken back.
    fn commit(mut self, context: &Context<'_>, id: &str, is_handed_over: bool) -> Result<(), Reply> {
        self.mailboxes.verify().inspect_err(failed(context, APPEND))?;
        if !self.maildirs.are_empty() || !self.files.are_empty() {
            self.maildirs.publish().inspect_err(failed(context, MAILDIR))?;
            self.files.publish().inspect_err(failed(context, EML))?;
            // Publishing took time, in which another program may have touched a mailbox.
            self.mailboxes.verify().inspect_err(failed(context, APPEND))?;
        }
        if let Some(report) = &self.report {
            let idle = context.config.limits.idle_secs.value;
            // If others may be waiting for a mailbox, the reader of reports gets less time.
            let patience = if self.mailboxes.are_locked() { idle.min(READER_PATIENCE) } else { idle };
            match report.print(Instant::now() + patience, context.signals) {
                Ok(()) => {}
                Err(error) if is_handed_over => context.log.event(&Event::NotReported(id, &error)),
                Err(error) => return Err(failure(&error, "reporting the message")),
            }
        }
        let Self { maildirs, files, mailboxes, shown, report: _ } = self;
        maildirs.commit();
        files.commit();
        mailboxes.commit();
        shown.commit();
        Ok(())
    }
}

/// Counts a failed delivery by destination.
fn failed(context: &Context<'_>, counter: Counter) -> impl FnOnce(&Reply) {
    move |_| context.tally.count(counter)
}

/// Names the recipients of the copy in the log, unless the reply names somebody already.
fn about<'a>(recipients: impl Iterator<Item = &'a Mailbox>) -> impl FnOnce(Reply) -> Reply {
    |reply| if reply.subject.is_some() { reply } else { reply.about(names_of(recipients)) }
}

/// All of these in one text.
fn names_of<'a>(recipients: impl IntoIterator<Item = &'a Mailbox>) -> String {
    recipients.into_iter().map(Mailbox::bare).collect::<Vec<_>>().join(" ")
}

/// The reply to an error of the system. It is always temporary, so that the sender keeps the mail.
fn failure(error: &io::Error, doing: &str) -> Reply {
    let cause = format!("{doing}: {error}");
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge => {
            reply::no_room(cause)
        }
        _ => reply::try_again(cause),
    }
}

/// Makes the names in a folder durable, if its file system can do that.
fn sync_folder(log: &Log, folder: impl AsFd, path: &Path) -> io::Result<()> {
    tolerate_unsynced(log, path, files::sync_folder(folder))
}

/// Some file systems cannot sync folders. The contents of files are synced there all the same, and refusing would mean
/// that mail can never be delivered to them.
fn tolerate_unsynced(log: &Log, folder: &Path, synced: io::Result<()>) -> io::Result<()> {
    match synced {
        Err(error) if files::cannot_sync_folders(&error) => {
            log.event_once(&Event::FolderNotSynced(folder, &error));
            Ok(())
        }
        synced => synced,
    }
}

/// The counters of destinations whose failure concerns all of their copies together.
const APPEND: Counter = Family::DeliveryFailures.with("append");
const MAILDIR: Counter = Family::DeliveryFailures.with("maildir");
const EML: Counter = Family::DeliveryFailures.with("eml");

/// A message that was handled by more servers than this goes in circles (RFC 5321, 6.3).
const MAX_HOPS: usize = 100;

/// How long the reader of reports is waited for while a mailbox is locked.
const READER_PATIENCE: Duration = Duration::from_secs(10);

/// How long a lock that another session or program has is waited for.
const LOCK_PATIENCE: Duration = Duration::from_secs(30);
