//! What `mailrecv check` finds when it goes through the lines of the file and compares each with those before it.

use std::collections::{HashMap, HashSet};

use super::action::{Action, Form, HandOver, Keep};
use super::check::{Finding, HandOverCopies, second_hand_over, without_own_domain};
use super::diagnostic::{Diagnostic, Severity};
use super::directive::{self, Delivery, Line, RuleLine};
use super::exact::{is_exact, unquoted};
use super::lexer::{self, Notes, Prepared, Problem, Word};
use super::pattern::Position;
use super::places::Places;
use super::secrets::Cited;
use super::settings::Setting;
use super::shell::{self, Command};
use super::sources::Sources;
use super::value::RefusalText;
use crate::address::Mailbox;
use crate::untrusted::bracket_of_address;

/// What is known of the lines so far.
pub(super) struct Lines<'r> {
    pub(super) own_domain: &'r str,
    sources: &'r Sources,
    copies: HandOverCopies<'r>,
    places: Places,
    /// The exact addresses of `deliver` lines, without our own domain, with the first line of each.
    pub(super) addresses: HashMap<String, u32>,
    /// For each address the first line that takes all of its mail.
    taken: HashMap<String, u32>,
    /// The text of every line, except for exact addresses, because there may be very many.
    pub(super) texts: HashMap<u32, String>,
    /// For each directive that counts once, the last line that had it.
    settings: HashMap<String, u32>,
    /// For each rule that is usually written once, the first line that had it.
    rules: HashMap<String, u32>,
    /// The `copy` lines whose recipient is not an address.
    pub(super) flawed: HashSet<u32>,
}

impl<'r> Lines<'r> {
    pub(super) fn new(own_domain: &'r str, sources: &'r Sources, copies: HandOverCopies<'r>, places: Places) -> Self {
        Self {
            own_domain,
            sources,
            copies,
            places,
            addresses: HashMap::new(),
            taken: HashMap::new(),
            texts: HashMap::new(),
            settings: HashMap::new(),
            rules: HashMap::new(),
            flawed: HashSet::new(),
        }
    }

    /// Checks the next line. Errors in it were reported when it was read.
    pub(super) fn look_at(&mut self, number: u32, text: &str, found: &mut Vec<Diagnostic>) {
        let Ok(prepared) = lexer::prepared(text) else { return };
        // Without replaced variables the line is shown as in the file, with its comment.
        let shown = if prepared.is_replaced() { Cited::Prepared(&prepared) } else { Cited::InFile(text) };
        let notes = Notes::default();
        let line = match directive::line_noting(&prepared, Some(&notes)) {
            Ok(Some(line)) => line,
            Ok(None) => {
                found.extend(directive::skipped_problem(text).map(|problem| problem.warn(Cited::InFile(text), number)));
                return;
            }
            Err(_) => return,
        };
        let mut problems = notes.take();
        match &line {
            Line::Rule(RuleLine::Deliver(delivery)) if is_exact(delivery.recipient.text) => {
                self.exact(delivery, number, (text, shown), !problems.is_empty(), found);
            }
            _ => _ = self.texts.insert(number, text.to_owned()),
        }
        if let Line::Rule(RuleLine::Copy(delivery)) = &line
            && is_exact(delivery.recipient.text)
        {
            if problems.is_empty() {
                problems.extend(self.no_address(delivery.recipient));
            }
            if !problems.is_empty() {
                self.flawed.insert(number);
            }
        }
        problems.extend(self.line_problems(&line, &prepared, number));
        if let Some(refusal) = refusal_of(&line) {
            problems.extend(bracketed_address(refusal, prepared.text()));
            if let Some(problem) = comment_behind(text) {
                found.push(problem.warn(Cited::InFile(text), number));
            }
        } else {
            // Characters of a password must not be revealed.
            problems.extend(lexer::look_alike(prepared.text()).filter(|problem| !shown.hides(problem.start)));
        }
        if let Some(problem) = self.placeholder(&prepared, &line) {
            problems.push(problem);
        }
        problems.sort_by_key(|problem| problem.start);
        found.extend(problems.into_iter().map(|problem| problem.warn(shown, number)));
    }

    /// Warnings about what a line names, and that another line said before.
    fn line_problems(&mut self, line: &Line<'_>, prepared: &Prepared<'_>, number: u32) -> Vec<Problem> {
        match line {
            Line::Setting(setting) if setting.is_repeated() => {
                self.setting_problem(line, prepared.text()).into_iter().collect()
            }
            Line::Setting(_) | Line::Limit(_) | Line::Rule(RuleLine::DeadLetterFile(_)) => {
                let twice = self.twice(prepared, number);
                twice.into_iter().chain(self.setting_problem(line, prepared.text())).collect()
            }
            Line::Rule(RuleLine::Deliver(delivery)) => self.action_problems(&delivery.action, prepared.text()),
            Line::Rule(RuleLine::Copy(delivery)) => {
                let mut problems = self.action_problems(&delivery.action, prepared.text());
                problems.extend(self.said_before(prepared, number));
                problems
            }
            Line::Rule(
                RuleLine::AllowPeers(_)
                | RuleLine::DenyPeers(_)
                | RuleLine::ProxyProtocol(_)
                | RuleLine::AllowGroup(..)
                | RuleLine::AllowSender(..)
                | RuleLine::RefuseSender(..),
            ) => self.said_before(prepared, number).into_iter().collect(),
            Line::Rule(RuleLine::RefuseRecipient(..)) | Line::Include(_) => Vec::new(),
        }
    }

    /// The warnings about settings that the whole file lacks.
    pub(super) fn missing(&self) -> Vec<Diagnostic> {
        let has = |directive| self.settings.contains_key(directive);
        let mut messages = Vec::new();
        if !has("domain") {
            messages.push(
                "no `domain` line: this host calls itself example.com, and takes recipients without a domain for that \
                 one's: write `domain` and its name",
            );
        }
        if has("exactly_once_days") && !has("exactly_once") {
            messages.push("`exactly_once_days` does nothing without `exactly_once DIR`");
        }
        messages.into_iter().map(|message| Diagnostic::warning(message.to_owned())).collect()
    }

    /// Checks a `deliver` line for a single address.
    fn exact(
        &mut self,
        delivery: &Delivery<'_>,
        number: u32,
        (text, shown): (&str, Cited<'_>),
        is_noted: bool,
        found: &mut Vec<Diagnostic>,
    ) {
        let recipient = delivery.recipient;
        if let Action::HandOver(_) = delivery.action {
            for copy in self.copies.that_take(&unquoted(recipient.text)) {
                let position = Position { line: number, start: recipient.start };
                let message = second_hand_over(self.sources.name_beside(copy.position.line, number));
                found.push(Finding::new(Severity::Error, position, recipient.text, message).cite(text));
            }
        }
        if is_noted {
            return;
        }
        if let Some(problem) = self.no_address(recipient) {
            found.push(problem.warn(shown, number));
            return;
        }
        let address = without_own_domain(&unquoted(recipient.text), self.own_domain);
        if let Some(earlier) = self.taken.get(&address) {
            let earlier = self.sources.name_beside(*earlier, number);
            let message = format!("{earlier} takes all mail for `{}`: this line is never used", recipient.text);
            found.push(recipient.problem(message).warn(shown, number));
        } else if delivery.group.is_none() {
            self.taken.insert(address.clone(), number);
        }
        self.addresses.entry(address).or_insert(number);
    }

    /// The warning about an address that gets no mail, or hardly any, which is probably a typing error.
    fn no_address(&self, recipient: Word<'_>) -> Option<Problem> {
        let text = recipient.text;
        let address = without_own_domain(&unquoted(text), self.own_domain);
        // Peers may write addresses that rules must not contain: with blanks around the `@`, a dot behind the domain,
        // or backslashes that quote.
        let is_address = Mailbox::parse_or_qualify(text, self.own_domain)
            .is_ok_and(|mailbox| without_own_domain(&mailbox.bare(), self.own_domain) == address);
        if !is_address {
            return Some(recipient.problem(format!("`{text}` is no mail address, so no mail will be for it")));
        }
        self.is_domain(text).then(|| {
            let own = self.own_domain;
            recipient.problem(format!("this is the name `{text}` at {own}: for everybody in a domain write `*@{text}`"))
        })
    }

    /// Whether this text without an `@` was probably meant as a domain.
    fn is_domain(&self, text: &str) -> bool {
        let Some((_, last)) = text.rsplit_once('.').filter(|_| !text.contains(['@', '"'])) else { return false };
        let own_last = self.own_domain.rsplit_once('.').map(|(_, last)| last);
        COMMON_DOMAINS.iter().copied().chain(own_last).any(|known| known.eq_ignore_ascii_case(last))
    }

    /// Warnings about a place that mail cannot be written to, and about unquoted variables in a command.
    fn action_problems(&mut self, action: &Action, prepared: &str) -> Vec<Problem> {
        let (path, trouble) = match action {
            Action::Keep(Keep::Append(file)) => (file, self.places.file(file.as_ref())),
            Action::Keep(Keep::Maildir(folder)) => (folder, self.places.maildir(folder.as_ref())),
            Action::Keep(Keep::Eml(folder)) => (folder, self.places.folder_to_make(folder.as_ref())),
            Action::Keep(Keep::Print(_) | Keep::Discard) => return Vec::new(),
            Action::HandOver(HandOver::Pipe(form, command)) => return self.command_problems(command, *form, prepared),
            // Warnings about brokers and next servers are given once, elsewhere.
            Action::HandOver(HandOver::Hpfeeds(_) | HandOver::Amqp(_) | HandOver::Relay(_)) => return Vec::new(),
        };
        // The path is the last word of the line, or followed by a comment.
        trouble.map(|trouble| about(prepared.rfind(&**path).unwrap_or_default(), path, trouble)).into_iter().collect()
    }

    fn command_problems(&mut self, text: &str, form: Form, prepared: &str) -> Vec<Problem> {
        // The command is the rest of the line.
        let begins = prepared.trim_ascii_end().len() - text.len();
        let command = Command::parse(text);
        let mut problems = unquoted_problems(&command, begins);
        problems.extend(quoted_problem(text, begins));
        problems.extend(self.places.shell().map(|trouble| about(begins, text, trouble)));
        if form == Form::Mailbox {
            problems.extend(mailbox_form_problem(&command, begins));
        }
        let programs = command.programs.iter();
        problems.extend(programs.filter_map(|(at, name)| Some(about(begins + at, name, self.places.program(name)?))));
        // Relative names are not checked, because the command may change its current folder.
        for (at, file) in command.outputs.iter().filter(|(_, file)| file.starts_with('/')) {
            problems.extend(self.places.file(file.as_ref()).map(|trouble| about(begins + at, file, trouble)));
        }
        problems
    }

    /// The warning about a log, or another file of a setting, that cannot be written.
    fn setting_problem(&mut self, line: &Line<'_>, prepared: &str) -> Option<Problem> {
        let (path, trouble) = match line {
            Line::Rule(RuleLine::DeadLetterFile(file)) => ((*file).to_owned(), self.places.file(file.as_ref())),
            Line::Setting(Setting::metrics_file(Some(path))) => (path.to_str()?.to_owned(), self.places.metrics(path)),
            Line::Setting(Setting::exactly_once(Some(path))) => (path.to_str()?.to_owned(), self.places.records(path)),
            Line::Setting(setting) => {
                let (path, is_file) = setting.path()?;
                let trouble = if is_file { self.places.file(path) } else { self.places.folder(path) };
                (path.to_str()?.to_owned(), trouble)
            }
            Line::Limit(_) | Line::Rule(_) | Line::Include(_) => return None,
        };
        trouble.map(|trouble| about(prepared.rfind(&path).unwrap_or_default(), &path, trouble))
    }

    /// The warning about a directive that is given again, although only the last one counts.
    fn twice(&mut self, prepared: &Prepared<'_>, number: u32) -> Option<Problem> {
        let verb = prepared.words().next_word()?;
        let earlier = self.settings.insert(verb.text.to_owned(), number)?;
        let earlier = self.sources.name_beside(earlier, number);
        Some(verb.problem(format!("`{}` is set in {earlier} already: this line counts, that one does not", verb.text)))
    }

    /// The warning about a repeated rule.
    fn said_before(&mut self, prepared: &Prepared<'_>, number: u32) -> Option<Problem> {
        let first = prepared.words().next_word()?;
        let line = prepared.directive().split_ascii_whitespace().collect::<Vec<_>>().join(" ");
        let earlier = *self.rules.entry(line).or_insert(number);
        let name = || self.sources.name_beside(earlier, number);
        (earlier != number).then(|| first.problem(format!("{} says the same", name())))
    }

    /// The warning about a name that is reserved for examples.
    fn placeholder(&self, prepared: &Prepared<'_>, line: &Line<'_>) -> Option<Problem> {
        let Line::Setting(setting) = line else { return None };
        if !setting.is_domain() {
            return None;
        }
        let mut words = prepared.words();
        words.next_word()?;
        let name = words.next_word()?;
        let lower = name.text.to_ascii_lowercase();
        let is_example = ["example.com", "example.net", "example.org"]
            .iter()
            .any(|example| lower.strip_suffix(example).is_some_and(|rest| rest.is_empty() || rest.ends_with('.')));
        is_example.then(|| {
            name.problem(format!(
                "`{}` is a name for examples: write the domain that this host takes mail for",
                name.text
            ))
        })
    }
}

/// A problem with the part of a line that begins at `at`.
fn about(at: usize, part: &str, message: String) -> Problem {
    Problem { start: at, end: at + part.len(), message }
}

/// The warning about a program that needs the message as it is, but gets it in the form of a mailbox.
fn mailbox_form_problem(command: &Command<'_>, begins: usize) -> Option<Problem> {
    let (at, program) = command.reader?;
    let name = program.rsplit('/').next().unwrap_or(program);
    READ_ONE_MESSAGE.contains(&name).then(|| {
        let message = format!(
            "`{name}` wants a message as it is, and `pipe` gives it one of a mailbox, with a `From ` line in front and \
             a `>` before others: write `pipe_raw`"
        );
        about(begins + at, program, message)
    })
}

/// Warnings about variables that the shell would split into words, which was probably not meant.
fn unquoted_problems(command: &Command<'_>, begins: usize) -> Vec<Problem> {
    let unquoted = command.unquoted.iter().filter(|(_, variable)| shell::is_of_the_peer(shell::name_of(variable)));
    unquoted
        .map(|(at, variable)| {
            let message = format!(
                "`{variable}` is not in quotes: blanks, `*` and `?` in what the peer sent mean something to the shell; \
                 put double quotes around the whole word"
            );
            about(begins + at, variable, message)
        })
        .collect()
}

/// The warning about quotes around a whole command with variables. One without any is the name of a program, which is
/// looked for ([`Places::program`]).
fn quoted_problem(command: &str, begins: usize) -> Option<Problem> {
    const EXPANDED: [char; 3] = ['$', '`', '\\'];
    let command = command.trim_ascii_end();
    let quote = command.chars().next().filter(|first| matches!(first, '"' | '\''))?;
    let inside = command.strip_prefix(quote)?.strip_suffix(quote)?;
    let (first_word, others) = inside.split_once(' ')?;
    let is_meant = !inside.contains(quote) && !first_word.contains(EXPANDED) && others.contains(EXPANDED);
    let message = "the quotes make one word of all of it, the name of a program for the shell: leave them out";
    is_meant.then(|| about(begins, command, message.to_owned()))
}

/// The refusal in a line, if it has one.
fn refusal_of<'l, 't>(line: &'l Line<'t>) -> Option<&'l RefusalText<'t>> {
    match line {
        Line::Limit(limit) => limit.refusal(),
        Line::Rule(
            RuleLine::RefuseRecipient(_, _, refusal)
            | RuleLine::RefuseSender(_, refusal)
            | RuleLine::AllowSender(_, Some(refusal)),
        ) => Some(refusal),
        Line::Setting(_) | Line::Rule(_) | Line::Include(_) => None,
    }
}

/// The warning about a refusal with an address in brackets, which in the log are for the peer's address.
fn bracketed_address(refusal: &RefusalText<'_>, prepared: &str) -> Option<Problem> {
    let text = refusal.text();
    let at = bracket_of_address(text, 0)?;
    let end = text[at..].find(']').map_or(text.len(), |length| at + length + 1);
    // The text runs to the end of the line.
    let begins = prepared.trim_ascii_end().len().checked_sub(text.len())?;
    let message = "in the log these brackets are written as <0x5b> and <0x5d>, because programs take the address in \
                   brackets for the peer's: leave them out";
    Some(Problem { start: begins + at, end: begins + end, message: message.to_owned() })
}

/// The warning about a comment that cuts off the text of a reply.
fn comment_behind(line: &str) -> Option<Problem> {
    let start = lexer::without_comment(line).len();
    let message =
        "the text of the reply ends here, because this begins a comment: if it is one, put it in a line above";
    let comment = line.get(start..).filter(|comment| comment.starts_with('#'))?;
    Some(Problem { start, end: start + comment.trim_ascii_end().len(), message: message.to_owned() })
}

impl Problem {
    /// The problem as a warning about its line.
    fn warn(self, cited: Cited<'_>, line: u32) -> Diagnostic {
        Diagnostic { severity: Severity::Warning, ..*self.cite(cited, line) }
    }
}

/// Programs that pass on, deliver or examine a single message.
const READ_ONE_MESSAGE: [&str; 15] = [
    "sendmail",
    "exim",
    "exim4",
    "qmail-inject",
    "msmtp",
    "ssmtp",
    "nullmailer-inject",
    "dovecot-lda",
    "procmail",
    "maildrop",
    "deliverquota",
    "rt-mailgate",
    "spamc",
    "spamassassin",
    "rspamc",
];

/// Top-level domains and similar endings that names of people hardly have.
const COMMON_DOMAINS: [&str; 12] =
    ["com", "net", "org", "edu", "gov", "mil", "info", "biz", "example", "local", "localdomain", "lan"];
