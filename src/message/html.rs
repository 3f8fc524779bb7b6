//! HTML as text: links and the marks of lists stay, everything else is words and line ends.
//!
//! What is a tag and what is a character reference a library tells, as browsers do; it takes anything. The time is
//! in proportion to the length, whatever is opened and never closed.

use html5gum::{DefaultEmitter, EndTag, HtmlString, StartTag, Token, Tokenizer};

/// The words of an HTML text.
pub(super) fn to_text(html: &str) -> String {
    let mut emitter = DefaultEmitter::default();
    // What scripts and styles hold is no markup.
    emitter.naively_switch_states(true);
    let mut page = Page::default();
    for token in Tokenizer::new_with_emitter(html, emitter).flatten() {
        match token {
            Token::StartTag(tag) => page.start(&tag),
            Token::EndTag(tag) => page.end(&tag),
            Token::String(text) => page.words(&text.value),
            Token::Comment(_) | Token::Doctype(_) | Token::Error(_) => {}
        }
    }
    page.end_link();
    page.text
}

/// What has been written.
#[derive(Default)]
struct Page {
    text: String,
    /// How many elements are open that nobody sees.
    hidden: usize,
    /// How many elements are open in which blanks count.
    preformatted: usize,
    /// The lists that are open, as far as they are told apart: the number of the next item, or none for a mark.
    lists: Vec<Option<u32>>,
    /// The link that is open, and where its text begins.
    link: Option<(String, usize)>,
    /// Whether a blank is due before the next word.
    is_after_blank: bool,
}

impl Page {
    fn start(&mut self, StartTag { name, attributes, .. }: &StartTag<()>) {
        let attribute = |name: &[u8]| attributes.get(name).map(|value| text_of(&value.value));
        match name.as_slice() {
            name if is_hidden(name) => self.hidden += 1,
            b"br" => self.break_line(),
            b"hr" => {
                self.end_lines(1);
                self.text.push_str("---");
                self.end_lines(1);
            }
            b"img" => self.words(attribute(b"alt").unwrap_or_default().as_bytes()),
            b"a" => {
                self.end_link();
                if let Some(target) = attribute(b"href").filter(|target| leads_somewhere(target)) {
                    self.link = Some((target, self.text.len()));
                }
            }
            b"ul" | b"ol" => {
                self.end_lines(1);
                if self.lists.len() < MAX_LISTS {
                    self.lists.push((name.as_slice() == b"ol").then_some(1));
                }
            }
            b"li" => self.item(),
            b"td" | b"th" => self.is_after_blank = true,
            b"pre" => {
                self.end_lines(2);
                self.preformatted += 1;
            }
            name => self.end_lines(lines_around(name)),
        }
    }

    fn end(&mut self, EndTag { name, .. }: &EndTag<()>) {
        match name.as_slice() {
            name if is_hidden(name) => self.hidden = self.hidden.saturating_sub(1),
            b"a" => self.end_link(),
            b"ul" | b"ol" => {
                self.lists.pop();
                self.end_lines(1);
            }
            b"pre" => {
                self.preformatted = self.preformatted.saturating_sub(1);
                self.end_lines(2);
            }
            name => self.end_lines(lines_around(name)),
        }
    }

    fn item(&mut self) {
        self.end_lines(1);
        self.text.extend(std::iter::repeat_n("  ", self.lists.len().saturating_sub(1)));
        match self.lists.last_mut() {
            Some(Some(number)) => {
                self.text.push_str(&format!("{number}. "));
                *number = number.saturating_add(1);
            }
            Some(None) | None => self.text.push_str("- "),
        }
    }

    fn words(&mut self, text: &[u8]) {
        if self.hidden > 0 {
            return;
        }
        let text = String::from_utf8_lossy(text);
        if self.preformatted > 0 {
            self.text.push_str(&text);
            return;
        }
        for piece in text.split_inclusive(|character: char| character.is_ascii_whitespace()) {
            let word = piece.trim_end_matches(|character: char| character.is_ascii_whitespace());
            if !word.is_empty() {
                if self.is_after_blank && !self.text.is_empty() && !self.text.ends_with(['\n', ' ']) {
                    self.text.push(' ');
                }
                self.text.push_str(word);
                self.is_after_blank = false;
            }
            self.is_after_blank |= word.len() < piece.len();
        }
    }

    /// A link's target stands behind its text, unless that is the same.
    fn end_link(&mut self) {
        if let Some((target, start)) = self.link.take() {
            let text = self.text.get(start..).unwrap_or_default().trim();
            if text.is_empty() {
                self.words(format!(" {target}").as_bytes());
            } else if !target.ends_with(text) {
                self.text.push_str(&format!(" <{target}>"));
            }
        }
    }

    fn break_line(&mut self) {
        self.text.truncate(self.text.trim_end_matches(' ').len());
        // However many there are, they say no more than that something ends.
        if !self.text.ends_with("\n\n") {
            self.text.push('\n');
        }
        self.is_after_blank = false;
    }

    /// Sees to it that the text ends with so many line ends, unless it has not begun.
    fn end_lines(&mut self, count: usize) {
        if count == 0 || self.text.is_empty() {
            return;
        }
        self.text.truncate(self.text.trim_end_matches(' ').len());
        let there_are = self.text.len() - self.text.trim_end_matches('\n').len();
        self.text.extend(std::iter::repeat_n('\n', count.saturating_sub(there_are)));
        self.is_after_blank = false;
    }
}

fn text_of(value: &HtmlString) -> String {
    String::from_utf8_lossy(value).into_owned()
}

/// Whether it is worth to be told where a link leads to.
fn leads_somewhere(target: &str) -> bool {
    !target.is_empty() && !target.starts_with('#') && target.len() <= MAX_TARGET
}

/// Elements with nothing to read in them. What stands in a head beside them is read, as its end may be missing.
fn is_hidden(name: &[u8]) -> bool {
    matches!(name, b"script" | b"style" | b"template" | b"title")
}

/// How many line ends stand before and behind an element.
fn lines_around(name: &[u8]) -> usize {
    match name {
        b"p" | b"h1" | b"h2" | b"h3" | b"h4" | b"h5" | b"h6" | b"blockquote" | b"table" | b"dl" => 2,
        b"div" | b"tr" | b"dt" | b"dd" | b"section" | b"article" | b"header" | b"footer" | b"address" | b"center"
        | b"form" | b"main" | b"nav" | b"aside" | b"figure" | b"caption" | b"option" => 1,
        _ => 0,
    }
}

/// How many lists are told apart that stand in each other.
const MAX_LISTS: usize = 8;

/// A longer target says nothing to anybody, in bytes.
const MAX_TARGET: usize = 2000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_and_the_marks_of_lists_stay() {
        for (html, text) in [
            ("<p>Hello <b>world</b></p><p>again</p>", "Hello world\n\nagain\n\n"),
            ("a<br>b<BR/>c", "a\nb\nc"),
            ("<a href='https://a.example/x?a=1&amp;b=2'>Click  here</a>.", "Click here <https://a.example/x?a=1&b=2>."),
            ("<a href=https://a.example/>https://a.example/</a>", "https://a.example/"),
            ("<a href=mailto:fred@a.example>fred@a.example</a>", "fred@a.example"),
            ("see <a href='https://a.example/'><img src=x></a>", "see https://a.example/"),
            ("<ul><li>one<li>two</ul>", "- one\n- two\n"),
            ("<ol><li>one</li> <li>two<ul><li>deep</ul></li></ol>", "1. one\n2. two\n  - deep\n"),
            ("<style>p { color: red }</style><script>if (a<b) {}</script>text", "text"),
            ("<head><title>no</title></head><body>yes", "yes"),
            ("<head><meta charset=utf-8><body>yes", "yes"),
            ("yes<script/>no", "yes"),
            ("<table><tr><td>a</td><td>b</td></tr><tr><td>c</table>", "a b\nc\n\n"),
            ("<pre>a\n  b &lt; c</pre>", "a\n  b < c\n\n"),
            ("5 < 6 &amp; &euro;&#x20ac; &nbsp;x", "5 < 6 & \u{20ac}\u{20ac} \u{a0}x"),
            ("<img alt='a cat'> <!-- <p>no --> <x <y>z", "a cat z"),
            ("<br><br><br><br>a<br><br><br><br>b", "\n\na\n\nb"),
            ("<a href='x'>never closed", "never closed <x>"),
            ("", ""),
        ] {
            assert_eq!(to_text(html), text, "{html}");
        }
    }

    #[test]
    fn what_is_never_closed_takes_no_longer_than_what_is() {
        for piece in [
            "<a href='x'>",
            "<x",
            "<x y=\"",
            "<!--",
            "<li>",
            "<ul>",
            "<pre>",
            "</p",
            "&",
            "<br>",
            "<a href=\"'",
            "<script>",
        ] {
            // In the square of its length this would take minutes.
            to_text(&piece.repeat(64 * 1024 / piece.len()));
        }
    }
}
