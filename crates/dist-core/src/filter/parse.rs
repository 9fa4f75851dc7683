//! From text to selectors.

use super::{FilterError, Selector, Test};

type Parsed<T> = Result<T, FilterError>;

fn err<T>(at: usize, problem: &'static str) -> Parsed<T> {
    Err(FilterError { at, problem })
}

/// Reads one filter; an empty one has no selectors.
pub(super) fn selectors(text: &str) -> Parsed<Vec<Selector>> {
    let mut input = Input { text, at: 0 };
    let mut selectors = Vec::new();
    if text.is_empty() {
        return Ok(selectors);
    }
    loop {
        selectors.push(selector(&mut input)?);
        match input.peek() {
            None => return Ok(selectors),
            Some(',') => input.bump(),
            Some(_) => return err(input.at, "expected a comma or the end"),
        }
    }
}

fn selector(input: &mut Input<'_>) -> Parsed<Selector> {
    let mut path = vec![field(input)?];
    while input.peek() == Some('.') {
        input.bump();
        path.push(field(input)?);
    }
    let path = path.into_iter().map(String::from_utf8).collect::<Result<_, _>>().ok();
    if matches!(input.peek(), None | Some(',')) {
        return Ok(Selector { path, test: Test::Present });
    }
    input.skip_space();
    let at = input.at;
    let test = match input.take(is_operator) {
        "==" => Test::Equal(value(input, false)?),
        "!=" => Test::NotEqual(value(input, false)?),
        "~=" => Test::regex(&value(input, true)?),
        _ => return err(at, "expected an operator: ==, != or ~="),
    };
    Ok(Selector { path, test })
}

fn field(input: &mut Input<'_>) -> Parsed<Vec<u8>> {
    input.skip_space();
    let at = input.at;
    match input.peek() {
        Some(quote) if is_quote(quote) => quoted(input, false),
        Some(c) if is_field(c) => Ok(input.take(is_field).into()),
        _ => err(at, "expected a field, quoted where it has other characters than A-Za-z0-9_"),
    }
}

fn value(input: &mut Input<'_>, is_regex: bool) -> Parsed<Vec<u8>> {
    input.skip_space();
    let at = input.at;
    match input.peek() {
        Some(quote) if is_quote(quote) => quoted(input, is_regex),
        Some(c) if is_value(c) && c != '.' && !is_operator(c) => Ok(input.take(is_value).into()),
        _ => err(at, "expected a value, quoted where it starts with other than a letter or digit"),
    }
}

/// Reads a quoted text, the cursor at its quote.
fn quoted(input: &mut Input<'_>, is_regex: bool) -> Parsed<Vec<u8>> {
    let at = input.at;
    let mut bytes = Vec::new();
    let Some(quote) = input.next() else { return err(at, "expected a quote") };
    loop {
        match input.next() {
            None | Some('\n' | '\0') => return err(at, "the quote does not end"),
            Some('\\') => escape(input, quote, &mut bytes)?,
            Some(c) if c == quote => break,
            Some(c) => push(&mut bytes, c),
        }
    }
    if quote != '"' && !is_regex {
        return err(at, "only a value behind ~= may be quoted by / or |");
    }
    Ok(bytes)
}

/// Reads an escape as Go's strings have them, behind its backslash.
fn escape(input: &mut Input<'_>, quote: char, bytes: &mut Vec<u8>) -> Parsed<()> {
    let at = input.at;
    let byte = match input.next() {
        Some('a') => 7,
        Some('b') => 8,
        Some('t') => b'\t',
        Some('n') => b'\n',
        Some('v') => 11,
        Some('f') => 12,
        Some('r') => b'\r',
        Some('\\') => b'\\',
        Some(c) if c == quote => {
            push(bytes, c);
            return Ok(());
        }
        Some('x') => low_byte(number(input, 2, 16)?, at)?,
        Some('0'..='7') => {
            input.at = at;
            low_byte(number(input, 3, 8)?, at)?
        }
        Some('u') => return scalar(number(input, 4, 16)?, at, bytes),
        Some('U') => return scalar(number(input, 8, 16)?, at, bytes),
        _ => return err(at, "no such escape"),
    };
    bytes.push(byte);
    Ok(())
}

fn low_byte(number: u32, at: usize) -> Parsed<u8> {
    u8::try_from(number).or_else(|_| err(at, "an escaped byte is at most 255"))
}

fn scalar(number: u32, at: usize, bytes: &mut Vec<u8>) -> Parsed<()> {
    if number > u32::from(char::MAX) {
        return err(at, "there is no such character");
    }
    // As in Go, half a surrogate pair stands for the replacement character.
    push(bytes, char::from_u32(number).unwrap_or(char::REPLACEMENT_CHARACTER));
    Ok(())
}

fn number(input: &mut Input<'_>, digits: u32, radix: u32) -> Parsed<u32> {
    let at = input.at;
    let mut number = 0;
    for _ in 0..digits {
        match input.next().and_then(|c| c.to_digit(radix)) {
            Some(digit) => number = number * radix + digit,
            None => return err(at, "too few digits in an escape"),
        }
    }
    Ok(number)
}

fn push(bytes: &mut Vec<u8>, c: char) {
    bytes.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
}

fn is_field(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_'
}

fn is_operator(c: char) -> bool {
    matches!(c, '=' | '!' | '~')
}

fn is_quote(c: char) -> bool {
    matches!(c, '"' | '/' | '|')
}

fn is_value(c: char) -> bool {
    c != ',' && !c.is_whitespace() && !c.is_control()
}

/// A cursor over the text.
struct Input<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Input<'a> {
    fn rest(&self) -> &'a str {
        self.text.get(self.at..).unwrap_or_default()
    }

    fn peek(&self) -> Option<char> {
        self.rest().chars().next()
    }

    fn next(&mut self) -> Option<char> {
        let c = self.peek()?;
        self.at += c.len_utf8();
        Some(c)
    }

    fn bump(&mut self) {
        self.next();
    }

    fn take(&mut self, is_wanted: fn(char) -> bool) -> &'a str {
        let rest = self.rest();
        let length = rest.find(|c| !is_wanted(c)).unwrap_or(rest.len());
        self.at += length;
        &rest[..length]
    }

    fn skip_space(&mut self) {
        self.take(char::is_whitespace);
    }
}
