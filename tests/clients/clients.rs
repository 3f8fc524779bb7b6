//! The table of clients. A new one is an entry here, a function that runs it (programs.rs, relays.rs), and, if it is a
//! library, a program around it (programs/).

use testkit::Form;

use crate::client::Deviation::{self, Cannot, Changes};
use crate::client::{Client, LineEnd};
use crate::messages::{Kind, REFUSAL};
use crate::programs::{
    curl, email_sender, emailjs, git_send_email, go, javax_mail, lettre, msmtp, mutt, net_smtp, nodemailer, phpmailer,
    ruby, s_nail, smtplib, ssmtp, swaks, twisted,
};
use crate::relays::{dma, exim, nullmailer, opensmtpd, postfix};

/// All of them.
pub const CLIENTS: &[Client] = &[
    Client { name: "Python smtplib", form: Form::Short, line_end: LineEnd::Crlf, send: smtplib, deviations: &[] },
    Client { name: "curl", form: Form::Short, line_end: LineEnd::Crlf, send: curl, deviations: &[] },
    Client {
        name: "swaks",
        form: Form::Short,
        line_end: LineEnd::Lf,
        send: swaks,
        deviations: &[
            (Kind::Dots, Changes("a dot alone in the last line ends the message")),
            (Kind::Empty, Cannot("data option appears to be a file but is not openable")),
            (Kind::Lf, MAKES_CRLF),
        ],
    },
    Client {
        name: "msmtp",
        form: Form::Short,
        line_end: LineEnd::Lf,
        send: msmtp,
        deviations: &[(Kind::Refused, Cannot(REFUSAL)), (Kind::Lf, MAKES_CRLF)],
    },
    Client {
        name: "Nodemailer",
        form: Form::Short,
        line_end: LineEnd::Crlf,
        send: nodemailer,
        deviations: &[(Kind::Lf, MAKES_CRLF)],
    },
    Client {
        name: "emailjs",
        form: Form::Long,
        line_end: LineEnd::Crlf,
        send: emailjs,
        deviations: &[
            (Kind::Dots, Changes("a first line that is a dot ends the message")),
            (Kind::Refused, Cannot(REFUSAL)),
            (Kind::Empty, OWN_HEADER),
            (Kind::NoHeader, OWN_HEADER),
        ],
    },
    Client {
        name: "Perl Net::SMTP",
        form: Form::Long,
        line_end: LineEnd::Lf,
        send: net_smtp,
        deviations: &[(Kind::Lf, MAKES_CRLF)],
    },
    Client {
        name: "Email::Sender",
        form: Form::Long,
        line_end: LineEnd::Lf,
        send: email_sender,
        deviations: &[(Kind::NoHeader, Changes("text without a header is lost")), (Kind::Lf, MAKES_CRLF)],
    },
    Client {
        name: "PHPMailer",
        form: Form::Long,
        line_end: LineEnd::Crlf,
        send: phpmailer,
        deviations: &[(Kind::LongLine, BREAKS_LINES), (Kind::Lf, MAKES_CRLF), (Kind::Cr, CR_TOO)],
    },
    Client {
        name: "Ruby net-smtp",
        form: Form::Long,
        line_end: LineEnd::Crlf,
        send: ruby,
        deviations: &[(Kind::Refused, Cannot(REFUSAL)), (Kind::Lf, MAKES_CRLF), (Kind::Cr, CR_TOO)],
    },
    Client {
        name: "Go net/smtp",
        form: Form::Long,
        line_end: LineEnd::Crlf,
        send: go,
        deviations: &[(Kind::Refused, Cannot(REFUSAL)), (Kind::Lf, MAKES_CRLF)],
    },
    Client {
        name: "lettre",
        form: Form::Long,
        line_end: LineEnd::Crlf,
        send: lettre,
        deviations: &[(Kind::Refused, Cannot(REFUSAL)), (Kind::LongSender, Cannot("InvalidUser"))],
    },
    Client {
        name: "javax.mail",
        form: Form::Long,
        line_end: LineEnd::Crlf,
        send: javax_mail,
        deviations: &[(Kind::Lf, MAKES_CRLF), (Kind::Cr, CR_TOO)],
    },
    Client {
        name: "Twisted",
        form: Form::Long,
        line_end: LineEnd::Lf,
        send: twisted,
        deviations: &[(Kind::Lf, MAKES_CRLF)],
    },
    Client {
        name: "nullmailer",
        form: Form::Long,
        line_end: LineEnd::Lf,
        send: nullmailer,
        deviations: &[
            (Kind::Refused, Cannot(REFUSAL)),
            (Kind::Empty, OWN_HEADER),
            (Kind::NoHeader, Changes("a first line that is no header field is lost")),
            (Kind::Lf, MAKES_CRLF),
        ],
    },
    Client {
        name: "ssmtp",
        form: Form::Long,
        line_end: LineEnd::Lf,
        send: ssmtp,
        deviations: &[
            (Kind::Refused, Cannot(REFUSAL)),
            (Kind::Empty, OWN_HEADER),
            (Kind::NoHeader, OWN_HEADER),
            (Kind::Lf, MAKES_CRLF),
            (Kind::Nul, CUTS_LINES),
            (Kind::LongSender, Changes("the address is that of the From field")),
        ],
    },
    Client {
        name: "dma",
        form: Form::Long,
        line_end: LineEnd::Lf,
        send: dma,
        deviations: &[
            (Kind::LongLine, Cannot("bad mail input format")),
            (Kind::Empty, OWN_HEADER),
            (Kind::NoHeader, OWN_HEADER),
            (Kind::Lf, MAKES_CRLF),
            (Kind::Nul, Cannot("bad mail input format")),
        ],
    },
    Client {
        name: "s-nail",
        form: Form::Long,
        line_end: LineEnd::Lf,
        send: s_nail,
        deviations: &[
            (Kind::Refused, Cannot(REFUSAL)),
            (Kind::LongLine, ENCODES),
            (Kind::Empty, OWN_HEADER),
            (Kind::NoHeader, OWN_HEADER),
            (Kind::Lf, MAKES_CRLF),
            (Kind::Cr, ENCODES),
            (Kind::Nul, ENCODES),
            (Kind::From, Changes("lines are escaped as in a mailbox")),
        ],
    },
    Client {
        name: "mutt",
        form: Form::Long,
        line_end: LineEnd::Lf,
        send: mutt,
        deviations: &[
            (Kind::Refused, Cannot(REFUSAL)),
            (Kind::LongLine, ENCODES),
            (Kind::Empty, OWN_HEADER),
            (Kind::NoHeader, OWN_HEADER),
            (Kind::Lf, MAKES_CRLF),
            (Kind::Nul, ENCODES),
        ],
    },
    Client {
        name: "git send-email",
        form: Form::Long,
        line_end: LineEnd::Lf,
        send: git_send_email,
        deviations: &[
            (Kind::Refused, Cannot(REFUSAL)),
            (Kind::LongLine, ENCODES),
            (Kind::Empty, Cannot("No subject line")),
            (Kind::NoHeader, Cannot("No subject line")),
            (Kind::Lf, MAKES_CRLF),
            (Kind::Cr, ENCODES),
        ],
    },
    Client {
        name: "Postfix",
        form: Form::Long,
        line_end: LineEnd::Crlf,
        send: postfix,
        deviations: &[
            (Kind::LongLine, BREAKS_LINES),
            (Kind::Empty, OWN_HEADER),
            (Kind::NoHeader, OWN_HEADER),
            (Kind::Lf, MAKES_CRLF),
            (Kind::Cr, Changes("a CR alone becomes a blank")),
        ],
    },
    Client {
        name: "Exim",
        form: Form::Long,
        line_end: LineEnd::Crlf,
        send: exim,
        deviations: &[
            (Kind::LongLine, Cannot("message has lines too long for transport")),
            (Kind::Empty, OWN_HEADER),
            (Kind::NoHeader, OWN_HEADER),
            (Kind::Lf, MAKES_CRLF),
            (Kind::Cr, CR_TOO),
        ],
    },
    Client {
        name: "OpenSMTPD",
        form: Form::Long,
        line_end: LineEnd::Crlf,
        send: opensmtpd,
        deviations: &[
            (Kind::Empty, OWN_HEADER),
            (Kind::NoHeader, Cannot("Message is not RFC 2822 compliant")),
            (Kind::Lf, MAKES_CRLF),
            (Kind::Nul, CUTS_LINES),
        ],
    },
];

/// Of those that take a message apart into lines and put it together again.
const CR_TOO: Deviation = Changes("a CR alone becomes CRLF");

/// Of those that encode what is not plain text.
const ENCODES: Deviation = Changes("the text is encoded as quoted-printable or base64");

/// The most that RFC 5321 lets a line have (4.5.3.1.6).
const BREAKS_LINES: Deviation = Changes("lines are broken behind 998 characters");

/// Of those to whom a line is a string of C.
const CUTS_LINES: Deviation = Changes("what stands behind a NUL in a line is lost");

/// Of those that are given subject and text, and of those that add what is missing.
const OWN_HEADER: Deviation = Changes("it writes a header of its own");

/// How most programs of Unix treat lines.
const MAKES_CRLF: Deviation = Changes("LF becomes CRLF");
