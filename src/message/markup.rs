//! Tells tags and text apart in HTML as browsers do (HTML standard, 13.2.5), however broken it is.
//!
//! The libraries for this that were looked at keep the names of characters in a table of pointers, which would have to
//! be relocated at each start of the program, even for mail without HTML (docs/decisions.md). A test compares this
//! module with one of them. It takes time in proportion to the length, because nothing is searched twice.

use super::letter;

/// A piece of HTML.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Token<'h> {
    /// Text; [`decoded`] replaces the character references in it.
    Text(&'h str),
    /// Text without character references: that of scripts and styles.
    Verbatim(&'h str),
    /// The tag that begins an element.
    Start(Tag<'h>),
    /// The tag that ends an element: the element's name in small letters.
    End(String),
}

/// A start tag: its name in small letters, and its attributes as they are written.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Tag<'h> {
    pub(super) name: String,
    attributes: Vec<(&'h str, &'h str)>,
}

/// Splits HTML into tokens.
pub(super) struct Tokens<'h> {
    rest: &'h str,
    /// The element, such as a script, in which only its own end tag counts.
    inside: Option<String>,
}

impl Tag<'_> {
    /// The decoded value of the first attribute of this name.
    pub(super) fn attribute(&self, name: &str) -> Option<String> {
        let (_, value) = self.attributes.iter().find(|(other, _)| other.eq_ignore_ascii_case(name))?;
        Some(decoded(value, Within::Attribute))
    }
}

impl<'h> Tokens<'h> {
    pub(super) fn new(html: &'h str) -> Self {
        Self { rest: html, inside: None }
    }

    /// Takes the text before this place, and drops so many bytes behind it.
    fn take(&mut self, place: usize, behind: usize) -> &'h str {
        let (taken, rest) = self.rest.split_at(place);
        self.rest = rest.get(behind..).unwrap_or_default();
        taken
    }

    /// Drops everything up to and including `end`, or all of the rest if there is no `end`.
    fn skip_behind(&mut self, end: &str) {
        self.rest = self.rest.split_once(end).map_or("", |(_, rest)| rest);
    }

    /// The text of an element in which only its own end tag counts, up to that tag.
    fn inside(&mut self, name: &str) -> Token<'h> {
        let is_end = |place: &usize| {
            let behind = self.rest.get(place + 2..).and_then(|rest| rest.split_at_checked(name.len()));
            behind.is_some_and(|(found, rest)| found.eq_ignore_ascii_case(name) && rest.starts_with(ends_name))
        };
        let place = self.rest.match_indices("</").map(|(place, _)| place).find(is_end).unwrap_or(self.rest.len());
        let text = self.take(place, 0);
        if matches!(name, "title" | "textarea") { Token::Text(text) } else { Token::Verbatim(text) }
    }

    /// Takes what begins with `<`; returns the tag, if it is a complete one.
    fn markup(&mut self) -> Option<Token<'h>> {
        let behind = &self.rest[1..];
        if let Some(comment) = behind.strip_prefix("!--") {
            self.rest = behind_comment(comment);
            return None;
        }
        if behind.starts_with(['!', '?']) {
            self.skip_behind(">");
            return None;
        }
        let is_end = behind.starts_with('/');
        let name = behind.strip_prefix('/').unwrap_or(behind);
        if !name.starts_with(|first: char| first.is_ascii_alphabetic()) {
            self.skip_behind(">");
            return None;
        }
        self.rest = name;
        let name = self.take(name.find(ends_name).unwrap_or(name.len()), 0).to_ascii_lowercase();
        let attributes = self.attributes()?;
        if is_end {
            return Some(Token::End(name));
        }
        if is_opaque(&name) {
            self.inside = Some(name.clone());
        }
        Some(Token::Start(Tag { name, attributes }))
    }

    /// The attributes of a tag, up to its end. `None` if the tag has no end: then all of the rest is used up.
    fn attributes(&mut self) -> Option<Vec<(&'h str, &'h str)>> {
        let mut attributes = Vec::new();
        loop {
            self.rest = self.rest.trim_start_matches(|character| is_blank(character) || character == '/');
            if let Some(rest) = self.rest.strip_prefix('>') {
                self.rest = rest;
                return Some(attributes);
            }
            let mut characters = self.rest.char_indices().skip(1);
            let end = characters.find(|(_, character)| ends_name(*character) || *character == '=');
            let Some((end, _)) = end else {
                self.rest = "";
                return None;
            };
            let name = self.take(end, 0);
            let behind = self.rest.trim_start_matches(is_blank);
            let value = match behind.strip_prefix('=') {
                Some(behind) => {
                    self.rest = behind.trim_start_matches(is_blank);
                    self.value()?
                }
                None => "",
            };
            attributes.push((name, value));
        }
    }

    fn value(&mut self) -> Option<&'h str> {
        let quote = self.rest.chars().next().filter(|first| matches!(first, '"' | '\''));
        let (rest, end) = match quote {
            Some(quote) => (&self.rest[1..], self.rest[1..].find(quote)),
            None => (self.rest, self.rest.find(|character| is_blank(character) || character == '>')),
        };
        self.rest = rest;
        if end.is_none() {
            self.rest = "";
        }
        Some(self.take(end?, usize::from(quote.is_some())))
    }
}

impl<'h> Iterator for Tokens<'h> {
    type Item = Token<'h>;

    fn next(&mut self) -> Option<Token<'h>> {
        loop {
            if self.rest.is_empty() {
                return None;
            }
            if let Some(name) = self.inside.take() {
                return Some(self.inside(&name));
            }
            match self.rest.match_indices('<').map(|(place, _)| place).find(|place| is_markup(&self.rest[*place..])) {
                Some(0) => match self.markup() {
                    None => {}
                    token => return token,
                },
                place => {
                    let text = self.take(place.unwrap_or(self.rest.len()), 0);
                    return Some(Token::Text(text));
                }
            }
        }
    }
}

/// Whether a `<` begins markup.
fn is_markup(text: &str) -> bool {
    let mut behind = text.chars().skip(1);
    match behind.next() {
        Some('!' | '?') => true,
        Some('/') => behind.next().is_some(),
        other => other.is_some_and(|other| other.is_ascii_alphabetic()),
    }
}

/// What is behind a comment. A comment without an end goes to the end of the text.
fn behind_comment(comment: &str) -> &str {
    if let Some(rest) = comment.strip_prefix('>').or_else(|| comment.strip_prefix("->")) {
        return rest;
    }
    let is_end = |place: &usize| comment[..*place].ends_with("--") || comment[..*place].ends_with("--!");
    let end = comment.match_indices('>').map(|(place, _)| place).find(is_end);
    end.map_or("", |end| &comment[end + 1..])
}

/// Elements that contain text only, no other elements.
fn is_opaque(name: &str) -> bool {
    matches!(name, "title" | "textarea" | "style" | "script" | "xmp" | "iframe" | "noembed" | "noframes")
}

fn ends_name(character: char) -> bool {
    is_blank(character) || matches!(character, '/' | '>')
}

fn is_blank(character: char) -> bool {
    matches!(character, '\t' | '\n' | '\u{c}' | '\r' | ' ')
}

/// Where a text with character references is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Within {
    /// Between tags.
    Text,
    /// In an attribute, where an `&` without a semicolon is mostly part of a URL.
    Attribute,
}

/// Replaces the character references in a text (HTML standard, 13.2.5.72).
pub(super) fn decoded(text: &str, within: Within) -> String {
    let mut pieces = text.split('&');
    let mut decoded = pieces.next().unwrap_or_default().to_owned();
    for piece in pieces {
        match reference(piece, within) {
            Some((character, rest)) => {
                decoded.push(character);
                decoded.push_str(rest);
            }
            None => {
                decoded.push('&');
                decoded.push_str(piece);
            }
        }
    }
    decoded
}

/// Reads what follows an `&`: the character that it stands for, and the text behind the reference.
fn reference(text: &str, within: Within) -> Option<(char, &str)> {
    if let Some(number) = text.strip_prefix('#') {
        return numbered(number);
    }
    let end = text.find(|character: char| !character.is_ascii_alphanumeric()).unwrap_or(text.len());
    let (word, rest) = text.split_at(end);
    if let Some(rest) = rest.strip_prefix(';')
        && let Some(character) = named(word)
    {
        return Some((character, rest));
    }
    // The oldest names need no semicolon, and then the longest one counts.
    let old = names().filter(|(name, character)| is_old(*character) && word.starts_with(name));
    let (name, character) = old.max_by_key(|(name, _)| name.len())?;
    let is_of_a_link = within == Within::Attribute && (name.len() < word.len() || rest.starts_with('='));
    (!is_of_a_link).then(|| (character, &text[name.len()..]))
}

/// Whether the names of this character are among the oldest, which need no semicolon.
fn is_old(character: char) -> bool {
    u32::from(character) <= 0xff && !matches!(character, '\'' | '\t' | '\n')
}

fn numbered(text: &str) -> Option<(char, &str)> {
    let (digits, radix) = text.strip_prefix(['x', 'X']).map_or((text, 10), |digits| (digits, 16));
    let end = digits.find(|character: char| !character.is_digit(radix)).unwrap_or(digits.len());
    let (digits, rest) = digits.split_at(end);
    if digits.is_empty() {
        return None;
    }
    let number = u32::from_str_radix(digits, radix).unwrap_or(u32::MAX);
    let character = match u8::try_from(number) {
        // C1 control characters are meant as windows-1252.
        Ok(byte @ 0x80..=0x9f) => letter::in_windows_1252(&[byte]).chars().next(),
        Ok(0) => None,
        _ => char::from_u32(number),
    };
    Some((character.unwrap_or(char::REPLACEMENT_CHARACTER), rest.strip_prefix(';').unwrap_or(rest)))
}

/// The character with this name.
fn named(word: &str) -> Option<char> {
    names().find(|(name, _)| *name == word).map(|(_, character)| character)
}

fn names() -> impl Iterator<Item = (&'static str, char)> {
    NAMES.split(' ').filter_map(|item| {
        let (end, character) = item.char_indices().next_back()?;
        Some((&item[..end], character))
    })
}

/// The character names of HTML 4, and a few more that occur in mail, each followed by its character. It is one string
/// because a table would be one of pointers.
const NAMES: &str = "\
    quot\" amp& lt< gt> nbsp\u{a0} iexcl\u{a1} cent\u{a2} pound\u{a3} curren\u{a4} yen\u{a5} brvbar\u{a6} \
    sect\u{a7} uml\u{a8} copy\u{a9} ordf\u{aa} laquo\u{ab} not\u{ac} shy\u{ad} reg\u{ae} macr\u{af} deg\u{b0} \
    plusmn\u{b1} sup2\u{b2} sup3\u{b3} acute\u{b4} micro\u{b5} para\u{b6} middot\u{b7} cedil\u{b8} sup1\u{b9} \
    ordm\u{ba} raquo\u{bb} frac14\u{bc} frac12\u{bd} frac34\u{be} iquest\u{bf} Agrave\u{c0} Aacute\u{c1} \
    Acirc\u{c2} Atilde\u{c3} Auml\u{c4} Aring\u{c5} AElig\u{c6} Ccedil\u{c7} Egrave\u{c8} Eacute\u{c9} \
    Ecirc\u{ca} Euml\u{cb} Igrave\u{cc} Iacute\u{cd} Icirc\u{ce} Iuml\u{cf} ETH\u{d0} Ntilde\u{d1} Ograve\u{d2} \
    Oacute\u{d3} Ocirc\u{d4} Otilde\u{d5} Ouml\u{d6} times\u{d7} Oslash\u{d8} Ugrave\u{d9} Uacute\u{da} \
    Ucirc\u{db} Uuml\u{dc} Yacute\u{dd} THORN\u{de} szlig\u{df} agrave\u{e0} aacute\u{e1} acirc\u{e2} \
    atilde\u{e3} auml\u{e4} aring\u{e5} aelig\u{e6} ccedil\u{e7} egrave\u{e8} eacute\u{e9} ecirc\u{ea} \
    euml\u{eb} igrave\u{ec} iacute\u{ed} icirc\u{ee} iuml\u{ef} eth\u{f0} ntilde\u{f1} ograve\u{f2} oacute\u{f3} \
    ocirc\u{f4} otilde\u{f5} ouml\u{f6} divide\u{f7} oslash\u{f8} ugrave\u{f9} uacute\u{fa} ucirc\u{fb} \
    uuml\u{fc} yacute\u{fd} thorn\u{fe} yuml\u{ff} OElig\u{152} oelig\u{153} Scaron\u{160} scaron\u{161} \
    Yuml\u{178} fnof\u{192} circ\u{2c6} tilde\u{2dc} Alpha\u{391} Beta\u{392} Gamma\u{393} Delta\u{394} \
    Epsilon\u{395} Zeta\u{396} Eta\u{397} Theta\u{398} Iota\u{399} Kappa\u{39a} Lambda\u{39b} Mu\u{39c} \
    Nu\u{39d} Xi\u{39e} Omicron\u{39f} Pi\u{3a0} Rho\u{3a1} Sigma\u{3a3} Tau\u{3a4} Upsilon\u{3a5} Phi\u{3a6} \
    Chi\u{3a7} Psi\u{3a8} Omega\u{3a9} alpha\u{3b1} beta\u{3b2} gamma\u{3b3} delta\u{3b4} epsilon\u{3b5} \
    zeta\u{3b6} eta\u{3b7} theta\u{3b8} iota\u{3b9} kappa\u{3ba} lambda\u{3bb} mu\u{3bc} nu\u{3bd} xi\u{3be} \
    omicron\u{3bf} pi\u{3c0} rho\u{3c1} sigmaf\u{3c2} sigma\u{3c3} tau\u{3c4} upsilon\u{3c5} phi\u{3c6} \
    chi\u{3c7} psi\u{3c8} omega\u{3c9} thetasym\u{3d1} upsih\u{3d2} piv\u{3d6} ensp\u{2002} emsp\u{2003} \
    thinsp\u{2009} zwnj\u{200c} zwj\u{200d} lrm\u{200e} rlm\u{200f} ndash\u{2013} mdash\u{2014} lsquo\u{2018} \
    rsquo\u{2019} sbquo\u{201a} ldquo\u{201c} rdquo\u{201d} bdquo\u{201e} dagger\u{2020} Dagger\u{2021} \
    bull\u{2022} hellip\u{2026} permil\u{2030} prime\u{2032} Prime\u{2033} lsaquo\u{2039} rsaquo\u{203a} \
    oline\u{203e} frasl\u{2044} euro\u{20ac} image\u{2111} weierp\u{2118} real\u{211c} trade\u{2122} \
    alefsym\u{2135} larr\u{2190} uarr\u{2191} rarr\u{2192} darr\u{2193} harr\u{2194} crarr\u{21b5} lArr\u{21d0} \
    uArr\u{21d1} rArr\u{21d2} dArr\u{21d3} hArr\u{21d4} forall\u{2200} part\u{2202} exist\u{2203} empty\u{2205} \
    nabla\u{2207} isin\u{2208} notin\u{2209} ni\u{220b} prod\u{220f} sum\u{2211} minus\u{2212} lowast\u{2217} \
    radic\u{221a} prop\u{221d} infin\u{221e} ang\u{2220} and\u{2227} or\u{2228} cap\u{2229} cup\u{222a} \
    int\u{222b} there4\u{2234} sim\u{223c} cong\u{2245} asymp\u{2248} ne\u{2260} equiv\u{2261} le\u{2264} \
    ge\u{2265} sub\u{2282} sup\u{2283} nsub\u{2284} sube\u{2286} supe\u{2287} oplus\u{2295} otimes\u{2297} \
    perp\u{22a5} sdot\u{22c5} lceil\u{2308} rceil\u{2309} lfloor\u{230a} rfloor\u{230b} lang\u{27e8} \
    rang\u{27e9} loz\u{25ca} spades\u{2660} clubs\u{2663} hearts\u{2665} diams\u{2666} apos' Tab\t NewLine\n \
    check\u{2713} AMP& LT< GT> QUOT\" COPY\u{a9} REG\u{ae}";

#[cfg(test)]
mod tests {
    use html5gum::Tokenizer;
    use html5gum::emitters::default::DefaultEmitter;
    use proptest::prelude::*;

    use super::*;

    /// What is told apart, as one text.
    fn told(html: &str) -> String {
        let mut told = String::new();
        for token in Tokens::new(html) {
            match token {
                Token::Text(text) => told += &decoded(text, Within::Text),
                Token::Verbatim(text) => told += text,
                Token::Start(tag) => {
                    told += &format!("<{} {:?} {:?}>", tag.name, tag.attribute("href"), tag.attribute("alt"));
                }
                Token::End(name) => told += &format!("</{name}>"),
            }
        }
        told
    }

    /// The same by a library that follows the standard.
    fn told_by_html5gum(html: &str) -> String {
        let mut emitter = DefaultEmitter::default();
        emitter.naively_switch_states(true);
        let mut told = String::new();
        let text_of = |text: &[u8]| String::from_utf8(text.to_vec()).expect("what was UTF-8");
        for token in Tokenizer::new_with_emitter(html, emitter).flatten() {
            match token {
                html5gum::Token::String(text) => told += &text_of(&text.value),
                html5gum::Token::StartTag(tag) => {
                    let attribute = |name: &[u8]| tag.attributes.get(name).map(|value| text_of(&value.value));
                    told += &format!("<{} {:?} {:?}>", text_of(&tag.name), attribute(b"href"), attribute(b"alt"));
                }
                html5gum::Token::EndTag(tag) => told += &format!("</{}>", text_of(&tag.name)),
                _ => {}
            }
        }
        told
    }

    proptest! {
        #[test]
        fn tags_and_text_are_what_the_standard_says(
            pieces in prop::collection::vec(prop::sample::select(PIECES), 0..12)
        ) {
            let html = pieces.concat();
            prop_assert_eq!(told(&html), told_by_html5gum(&html), "{}", html);
        }
    }

    /// Any two of them, in each of the places where other rules hold.
    #[test]
    fn what_stands_side_by_side_is_what_the_standard_says() {
        for one in PIECES {
            for other in PIECES {
                let pieces = format!("{one}{other}");
                for html in [
                    format!("{pieces}x>y"),
                    format!("<!--{pieces}>x"),
                    format!("<a {pieces}>x"),
                    format!("<a href='{pieces}' alt=\"{pieces}\">x"),
                    format!("<a href={pieces} alt=x>y"),
                    format!("<textarea>{pieces}</textarea>x</a>"),
                    format!("<script>{pieces}</script>x"),
                ] {
                    assert_eq!(told(&html), told_by_html5gum(&html), "{html}");
                }
            }
        }
    }

    const PIECES: &[&str] = &[
        "<",
        ">",
        "/",
        "</",
        "<!",
        "<?",
        "!",
        "?",
        "<!--",
        "-->",
        "--!>",
        "-",
        "--",
        "a",
        "A",
        " ",
        "\n",
        "=",
        "\"",
        "'",
        "<a ",
        "</a",
        "href=",
        "HREF = ",
        "alt",
        "<title>",
        "</title",
        "<STYLE>",
        "</style>",
        "<b>",
        "<br/>",
        "&",
        "&amp",
        "&amp;",
        "&lt",
        "&not",
        "&notin;",
        "&notit;",
        "&copy=",
        "&euro;",
        "&euro",
        "&#",
        "&#x",
        "&#65",
        "&#x80;",
        "&#0;",
        "&#xd800;",
        "&#99999999999;",
        ";",
        "x",
        "\u{fc}",
        "\u{1f600}",
        "<textarea",
        "<!doctype html>",
        "<x y=\"",
    ];

    /// Each name, so that none is written wrongly.
    #[test]
    fn names_are_those_of_the_standard() {
        assert!(names().count() > 250);
        for (name, character) in names() {
            assert_eq!(told_by_html5gum(&format!("&{name};")), character.to_string(), "{name}");
            for text in [format!("&{name} "), format!("&{name}x"), format!("<a href='&{name}x &{name}= &{name}'>")] {
                assert_eq!(told(&text), told_by_html5gum(&text), "{name}");
            }
        }
    }
}
