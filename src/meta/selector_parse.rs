//! The text forms of label and field selectors, with apimachinery's grammar and errors (`labels.Parse`,
//! `fields.ParseSelector`).

use super::labels;
use super::selector::{FieldSelector, FieldTerm, Operator, Requirement, Selector};

#[derive(Clone, Debug, PartialEq, Eq)]
enum Token {
    End,
    Open,
    Close,
    Comma,
    Not,
    Equals,
    DoubleEquals,
    NotEquals,
    Greater,
    Less,
    In,
    NotIn,
    Identifier,
    Error,
}

fn symbol(text: &str) -> Option<Token> {
    Some(match text {
        "(" => Token::Open,
        ")" => Token::Close,
        "," => Token::Comma,
        "!" => Token::Not,
        "=" => Token::Equals,
        "==" => Token::DoubleEquals,
        "!=" => Token::NotEquals,
        ">" => Token::Greater,
        "<" => Token::Less,
        _ => return None,
    })
}

fn is_special(c: char) -> bool {
    matches!(c, '=' | '!' | '(' | ')' | ',' | '>' | '<')
}

fn is_space(c: char) -> bool {
    matches!(c, ' ' | '\t' | '\r' | '\n')
}

fn scan(text: &str) -> Vec<(Token, String)> {
    let mut out = Vec::new();
    let mut rest = text.trim_start_matches(is_space);
    while let Some(first) = rest.chars().next() {
        let (token, length) = if is_special(first) { scan_symbol(rest) } else { scan_word(rest) };
        out.push((token, rest[..length].to_owned()));
        rest = rest[length..].trim_start_matches(is_space);
    }
    out.push((Token::End, String::new()));
    out
}

fn scan_word(rest: &str) -> (Token, usize) {
    let end = rest.find(|c| is_special(c) || is_space(c)).unwrap_or(rest.len());
    match &rest[..end] {
        "in" => (Token::In, end),
        "notin" => (Token::NotIn, end),
        _ => (Token::Identifier, end),
    }
}

/// The longest symbol at the start; special characters are all ASCII.
fn scan_symbol(rest: &str) -> (Token, usize) {
    let two = rest.get(..2).and_then(symbol).map(|t| (t, 2));
    two.or_else(|| symbol(&rest[..1]).map(|t| (t, 1))).unwrap_or((Token::Error, 1))
}

struct Parser {
    items: Vec<(Token, String)>,
    at: usize,
}

impl Parser {
    /// Where values may stand, `in` and `notin` are plain words.
    fn peek_value(&self) -> (Token, &str) {
        let (token, text) = self.peek();
        (if matches!(token, Token::In | Token::NotIn) { Token::Identifier } else { token }, text)
    }

    fn peek(&self) -> (Token, &str) {
        self.items.get(self.at).map_or((Token::End, ""), |(t, s)| (t.clone(), s))
    }

    fn next_value(&mut self) -> (Token, String) {
        let (token, text) = self.peek_value();
        let out = (token, text.to_owned());
        self.at += 1;
        out
    }

    fn next_operator(&mut self) -> (Token, String) {
        let (token, text) = self.peek();
        let out = (token, text.to_owned());
        self.at += 1;
        out
    }

    fn selector(&mut self) -> Result<Selector, String> {
        let mut out = Vec::new();
        loop {
            match self.peek_value() {
                (Token::Identifier | Token::Not, _) => {
                    out.push(self.requirement().map_err(|e| format!("unable to parse requirement: {e}"))?);
                }
                (Token::End, _) => return Ok(Selector(out)),
                (_, text) => return Err(format!("found '{text}', expected: !, identifier, or 'end of string'")),
            }
            match self.next_value() {
                (Token::End, _) => return Ok(Selector(out)),
                (Token::Comma, _) => {
                    let (token, text) = self.peek_value();
                    if !matches!(token, Token::Identifier | Token::Not) {
                        return Err(format!("found '{text}', expected: identifier after ','"));
                    }
                }
                (_, text) => return Err(format!("found '{text}', expected: ',' or 'end of string'")),
            }
        }
    }

    fn requirement(&mut self) -> Result<Requirement, String> {
        let (mut token, mut text) = self.next_value();
        let negated = token == Token::Not;
        if negated {
            (token, text) = self.next_value();
        }
        if token != Token::Identifier {
            return Err(format!("found '{text}', expected: identifier"));
        }
        let key = text;
        check(&labels::key_errors(&key), "<nil>", &key)?;
        if negated {
            return Ok(Requirement { key, operator: Operator::DoesNotExist });
        }
        if matches!(self.peek_value().0, Token::End | Token::Comma) {
            return Ok(Requirement { key, operator: Operator::Exists });
        }
        let operator = self.operator(&key)?;
        Ok(Requirement { key, operator })
    }

    fn operator(&mut self, key: &str) -> Result<Operator, String> {
        let (token, text) = self.next_operator();
        let values = match token {
            Token::In | Token::NotIn => self.values()?,
            Token::Equals | Token::DoubleEquals | Token::NotEquals | Token::Greater | Token::Less => vec![self.exact()?],
            _ => return Err(format!("found '{text}', expected: in, notin, =, ==, !=, gt, lt")),
        };
        for (at, value) in values.iter().enumerate() {
            check(&labels::value_errors(value), &format!("values[{at}][{key}]"), value)?;
        }
        let number = |values: &[String]| {
            let text = values.first().map_or("", String::as_str);
            text.parse::<i64>()
                .map_err(|_| format!("values[0][{key}]: Invalid value: \"{text}\": for 'Gt', 'Lt' operators, the value must be an integer"))
        };
        Ok(match token {
            Token::In | Token::Equals | Token::DoubleEquals => Operator::In(values),
            Token::Greater => Operator::GreaterThan(number(&values)?),
            Token::Less => Operator::LessThan(number(&values)?),
            _ => Operator::NotIn(values),
        })
    }

    fn exact(&mut self) -> Result<String, String> {
        if matches!(self.peek_value().0, Token::End | Token::Comma) {
            return Ok(String::new());
        }
        match self.next_value() {
            (Token::Identifier, text) => Ok(text),
            (_, text) => Err(format!("found '{text}', expected: identifier")),
        }
    }

    fn values(&mut self) -> Result<Vec<String>, String> {
        let (token, text) = self.next_value();
        if token != Token::Open {
            return Err(format!("found '{text}' expected: '('"));
        }
        let mut out: Vec<String> = Vec::new();
        let mut wants_value = true;
        loop {
            match self.next_value() {
                (Token::Identifier, text) if wants_value => {
                    out.push(text);
                    wants_value = false;
                }
                // An empty place between commas or brackets is the empty value.
                (Token::Comma, _) => {
                    if wants_value {
                        out.push(String::new());
                    }
                    wants_value = true;
                }
                (Token::Close, _) => {
                    if wants_value {
                        out.push(String::new());
                    }
                    out.sort();
                    out.dedup();
                    return Ok(out);
                }
                (_, text) if wants_value => return Err(format!("found '{text}', expected: ',', ')' or identifier")),
                (_, text) => return Err(format!("found '{text}', expected: ',' or ')'")),
            }
        }
    }
}

fn check(errors: &[String], path: &str, value: &str) -> Result<(), String> {
    if errors.is_empty() { Ok(()) } else { Err(format!("{path}: Invalid value: \"{value}\": {}", errors.join("; "))) }
}

impl Selector {
    /// Parses `a=b,c in (d,e),!f`.
    ///
    /// # Errors
    /// The text as apimachinery says it.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut selector = Parser { items: scan(text), at: 0 }.selector()?;
        selector.0.sort_by(|a, b| a.key.cmp(&b.key));
        Ok(selector)
    }
}

impl FieldSelector {
    /// Parses `a.b=c,d!=e`. A backslash escapes `,`, `=` and itself in values.
    ///
    /// # Errors
    /// The text as apimachinery says it.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut terms = split_terms(text);
        terms.sort_unstable();
        let mut out = Vec::new();
        for term in terms.into_iter().filter(|t| !t.is_empty()) {
            let Some((field, equal, value)) = split_term(term) else {
                return Err(format!("invalid selector: '{text}'; can't understand '{term}'"));
            };
            out.push(FieldTerm { field: field.to_owned(), value: unescape(value)?, equal });
        }
        Ok(Self(out))
    }
}

fn split_terms(text: &str) -> Vec<&str> {
    let (mut out, mut start, mut escaped) = (Vec::new(), 0, false);
    for (at, c) in text.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            ',' => {
                out.push(&text[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    out.push(&text[start..]);
    out
}

fn split_term(term: &str) -> Option<(&str, bool, &str)> {
    term.char_indices().find_map(|(at, _)| {
        let operators = [("!=", false), ("==", true), ("=", true)];
        operators.into_iter().find_map(|(op, equal)| Some((&term[..at], equal, term[at..].strip_prefix(op)?)))
    })
}

fn unescape(value: &str) -> Result<String, String> {
    let mut out = String::with_capacity(value.len());
    let mut chars = value.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => match chars.next() {
                Some(next @ ('\\' | ',' | '=')) => out.push(next),
                Some(next) => return Err(format!("invalid field selector: invalid escape sequence: \\{next}")),
                None => return Err("invalid field selector: invalid escape sequence: \\".into()),
            },
            ',' | '=' => return Err(format!("invalid field selector: unescaped character in value: {c}")),
            _ => out.push(c),
        }
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    fn matches(selector: &str, labels: &[(&str, &str)]) -> bool {
        let labels: BTreeMap<String, String> = labels.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        Selector::parse(selector).unwrap().matches(Some(&labels))
    }

    #[test]
    fn requirements_of_every_form() {
        let web = [("app", "web"), ("tier", "1")];
        for (selector, want) in [
            ("", true),
            ("app=web", true),
            ("app==web", true),
            (" app = web , tier ", true),
            ("app!=web", false),
            ("other!=x", true),
            ("app in (web, db)", true),
            ("app notin (web)", false),
            ("other notin (x)", true),
            ("!app", false),
            ("! other", true),
            ("tier>0", true),
            ("tier<1", false),
            ("in=x", false),
            ("app in (in, notin)", false),
            ("app=", false),
            ("app in ()", false),
            ("app in (,web)", true),
        ] {
            assert_eq!(matches(selector, &web), want, "{selector}");
        }
    }

    #[test]
    fn errors_are_apimachinerys() {
        for (selector, want) in [
            ("a,", "found '', expected: identifier after ','"),
            ("a b", "unable to parse requirement: found 'b', expected: in, notin, =, ==, !=, gt, lt"),
            ("a in b", "unable to parse requirement: found 'b' expected: '('"),
            ("=a", "found '=', expected: !, identifier, or 'end of string'"),
            ("!", "unable to parse requirement: found '', expected: identifier"),
            ("a=b c", "found 'c', expected: ',' or 'end of string'"),
            (
                "a>x",
                "unable to parse requirement: values[0][a]: Invalid value: \"x\": for 'Gt', 'Lt' operators, the value must be an integer",
            ),
        ] {
            assert_eq!(Selector::parse(selector).unwrap_err(), want, "{selector}");
        }
        assert!(Selector::parse("-a=b").unwrap_err().contains("name part must consist of"));
        assert!(Selector::parse("a=b@").unwrap_err().contains("a valid label must be"));
    }

    #[test]
    fn field_selectors() {
        let parsed = FieldSelector::parse(r"metadata.name=a\,b,spec.x!=c,status.phase==Running,").unwrap();
        let terms: Vec<_> = parsed.0.iter().map(|t| (t.field.as_str(), t.equal, t.value.as_str())).collect();
        assert_eq!(terms, [("metadata.name", true, "a,b"), ("spec.x", false, "c"), ("status.phase", true, "Running")]);
        assert_eq!(FieldSelector::parse("abc").unwrap_err(), "invalid selector: 'abc'; can't understand 'abc'");
        assert!(FieldSelector::parse(r"a=b\c").is_err() && FieldSelector::parse("a=b=c").is_err());
    }

    proptest! {
        #[test]
        fn nothing_makes_the_parsers_panic(text in ".{0,40}") {
            let _ = Selector::parse(&text);
            let _ = FieldSelector::parse(&text);
        }

        #[test]
        fn a_selector_of_tokens_ends(text in r"(a|b|in|notin|\(|\)|,|!|=|==|!=|>|<| |1){0,12}") {
            let _ = Selector::parse(&text);
        }

        /// What is written out from a map of labels selects exactly the maps that hold them.
        #[test]
        fn equality_selects_supersets(own in "[a-c]", value in "[x-z]{0,2}", have in proptest::collection::btree_map("[a-c]", "[x-z]{0,2}", 0..4)) {
            let selector = Selector::parse(&format!("{own}={value}")).unwrap();
            prop_assert_eq!(selector.matches(Some(&have)), have.get(&own) == Some(&value));
            let negated = Selector::parse(&format!("{own}!={value}")).unwrap();
            prop_assert_eq!(negated.matches(Some(&have)), have.get(&own) != Some(&value));
        }
    }
}
