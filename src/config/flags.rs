//! The flags of `debug`: what is logged besides errors, and whether sessions are recorded.
//!
//! There is one table with a row for each flag. The parser, the message about an unknown flag, the command line's help
//! and the test of the manual page use it.

use std::fmt;

/// The `debug` flags.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Flags(u16);

/// Turns each row into a constant, and all rows into a table.
macro_rules! flags {
    ($($letter:literal $name:ident $words:literal)+) => {
        impl Flags {
            $(#[doc = $words] pub const $name: Self = Self::of($letter);)+

            /// Every flag: its letter, its value, and what it logs in the words of mailrecv.conf(5).
            pub const ALL: &[(char, Self, &str)] = &[$(($letter, Self::$name, $words)),+];

            /// Every letter: those of the flags, and in front `a`, which stands for everything that is logged.
            pub const ALPHABET: &str = concat!('a', $($letter),+);
        }
    };
}

flags! {
    'c' CONFIG "this configuration"
    'f' FILES "files and commands"
    'F' CLOSING "the end of each connection"
    'h' HOSTS "host names"
    'l' LETTERS "the text of messages"
    'r' RULES "which rule matched what"
    's' DIALOGUE "the SMTP dialogue"
    't' TRANSCRIPTS "nothing, but a transcript of each session is written"
    'w' WARNINGS "warnings"
    '+' DELIVERIES "one line for each delivery"
}

impl Flags {
    /// Reads flag letters. `-` clears the flags before it. `a` stands for everything that is logged; transcripts are
    /// not included, because they are files of their own, and a folder has to be configured for them.
    pub fn parse(text: &str) -> Result<Self, String> {
        match Self::parse_known(text) {
            (flags, None) => Ok(flags),
            (_, Some(letter)) => Err(Self::unknown(letter)),
        }
    }

    /// The same for a text that may have unknown letters: they are ignored, and the first one is returned.
    pub(super) fn parse_known(text: &str) -> (Self, Option<char>) {
        let (mut flags, mut unknown) = (Self::default(), None);
        for letter in text.chars() {
            match (letter, Self::ALL.iter().find(|(name, ..)| *name == letter)) {
                ('-', _) => flags = Self::default(),
                ('a', _) => {
                    let logged = Self::ALL.iter().filter(|(_, flag, _)| *flag != Self::TRANSCRIPTS);
                    flags = logged.fold(flags, |all, (_, flag, _)| Self(all.0 | flag.0));
                }
                (_, Some((_, flag, _))) => flags.0 |= flag.0,
                (_, None) => unknown = unknown.or(Some(letter)),
            }
        }
        (flags, unknown)
    }

    /// The message about an unknown letter.
    pub(super) fn unknown(letter: char) -> String {
        format!("unknown flag `{letter}`: the flags are -{}", spaced_letters())
    }

    /// Whether any of these flags is set.
    pub fn has(self, flags: Flags) -> bool {
        self.0 & flags.0 != 0
    }

    /// The flag with this letter: a bit that depends on the letter's position in the alphabet.
    const fn of(letter: char) -> Self {
        let letters = Self::ALPHABET.as_bytes();
        let mut place = 0;
        while letters[place] as char != letter {
            place += 1;
        }
        Self(1 << place)
    }
}

fn spaced_letters() -> String {
    Flags::ALPHABET.chars().flat_map(|letter| [' ', letter]).collect()
}

impl fmt::Display for Flags {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if *self == Self::default() {
            return f.write_str("-");
        }
        Self::ALL.iter().filter(|(_, flag, _)| self.has(*flag)).try_for_each(|(letter, ..)| write!(f, "{letter}"))
    }
}
