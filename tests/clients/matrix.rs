//! A client through all messages, and the table of what came of it.

use memchr::memmem;
use testkit::Folder;

use crate::client::{Client, Deviation, Mail};
use crate::messages::{Kind, NOBODY, REFUSAL, SENDER};
use crate::receiver::Receiver;
use crate::wire::Transaction;

/// A row of the table.
pub struct Row {
    /// The client.
    pub client: &'static str,
    /// Of each kind of message, why it did not arrive as it was given to the client, if it did not.
    pub notes: Vec<Option<String>>,
    /// What should not be.
    pub problems: Vec<String>,
}

/// What came of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outcome {
    /// It arrived as it was sent, with what is peculiar about it.
    Arrived,
    /// It arrived as it was sent; the client had changed what is peculiar about it.
    Changed,
    /// It arrived at some of its recipients only.
    InPart,
    /// The client does not send it.
    Nowhere,
}

/// Sends every kind of message with a client.
pub fn row(client: &Client) -> Row {
    let (receiver, folder) = (Receiver::start(), Folder::new());
    let mut row = Row { client: client.name, notes: Vec::new(), problems: Vec::new() };
    for kind in Kind::ALL {
        let mail = Mail {
            server: receiver.address(),
            sender: kind.sender(),
            recipients: kind.recipients(),
            message: client.line_end.applied_to(kind),
            folder: &folder,
        };
        let said = (client.send)(&mail);
        let (transactions, mut problems) = receiver.examine();
        let outcome = outcome(kind, &transactions, &said);
        let expected = client.deviations.iter().find(|(of, _)| *of == kind).map(|(_, deviation)| deviation);
        row.notes.push(match (outcome, expected) {
            (Outcome::Arrived, None) => None,
            (Outcome::Changed, Some(Deviation::Changes(words))) => Some(format!("changed: {words}")),
            (Outcome::Nowhere, Some(Deviation::Cannot(words))) if said.contains(words) => {
                Some(format!("cannot: \"{words}\""))
            }
            _ => {
                problems.push(format!(
                    "{outcome:?}, where the table of clients has {expected:?}; the client said {:?}; on the wire were {}",
                    shortened(&said),
                    transactions.iter().map(summary).collect::<Vec<_>>().join(", "),
                ));
                Some(format!("{outcome:?}: see below"))
            }
        });
        row.problems.extend(problems.into_iter().map(|problem| format!("{}: {}: {problem}", client.name, kind.name())));
    }
    row
}

fn outcome(kind: Kind, transactions: &[Transaction], said: &str) -> Outcome {
    let is_for = |transaction: &Transaction, recipient: &str| transaction.recipients.iter().any(|to| to == recipient);
    // What comes back to the sender is no message of the client.
    let is_message = |transaction: &&Transaction| transaction.is_accepted() && !is_for(transaction, SENDER);
    let messages: Vec<&Transaction> = transactions.iter().filter(is_message).collect();
    let arrived = |recipient: &&str| messages.iter().any(|transaction| is_for(transaction, recipient));
    // By the client, or by a message that a relay sends back.
    let tells = |text: &[u8]| memmem::find(text, REFUSAL.as_bytes()).is_some();
    let bounces = transactions.iter().filter(|transaction| is_for(transaction, SENDER));
    let is_told = tells(said.as_bytes()) || bounces.filter_map(|bounce| bounce.text.as_deref()).any(tells);
    let is_sound = match kind {
        // A refusal that the client keeps for itself is none that it can send.
        Kind::Refused => is_told && transactions.iter().any(|transaction| kind.is_in(transaction)),
        _ => messages.iter().all(|transaction| kind.is_in(transaction)),
    };
    let is_everywhere = kind.recipients().iter().filter(|recipient| **recipient != NOBODY).all(arrived);
    match messages[..] {
        [] => Outcome::Nowhere,
        _ if !is_everywhere => Outcome::InPart,
        _ if is_sound => Outcome::Arrived,
        _ => Outcome::Changed,
    }
}

/// The rows as a table, and below it why some messages did not arrive as they were given to a client.
pub fn table(rows: &[Row]) -> String {
    let width = rows.iter().map(|row| row.client.len()).max().unwrap_or(0);
    let heads: String = Kind::ALL.iter().map(|kind| format!("  {:^9}", kind.name())).collect();
    let mut text = format!("{:width$}{heads}\n", "");
    let mut notes: Vec<&str> = Vec::new();
    for row in rows {
        text += &format!("{:width$}", row.client);
        for note in &row.notes {
            let number = note.as_ref().map(|note| {
                notes.iter().position(|known| known == note).unwrap_or_else(|| {
                    notes.push(note);
                    notes.len() - 1
                })
            });
            let cell = number.map_or("ok".to_owned(), |number| format!("({})", number + 1));
            text += &format!("  {cell:^9}");
        }
        text.push('\n');
    }
    notes.iter().enumerate().for_each(|(number, note)| text += &format!("({}) {note}\n", number + 1));
    text
}

fn summary(transaction: &Transaction) -> String {
    let text = transaction.text.as_deref().unwrap_or_default();
    let end = text[text.len().saturating_sub(300)..].escape_ascii();
    format!(
        "<{}> to {:?}, refused {:?}, {} bytes that end with \"{end}\": {:?}",
        transaction.sender,
        transaction.recipients,
        transaction.refused,
        text.len(),
        transaction.reply
    )
}

fn shortened(text: &str) -> &str {
    let from = text.char_indices().rev().nth(1500).map_or(0, |(at, _)| at);
    &text[from..]
}
