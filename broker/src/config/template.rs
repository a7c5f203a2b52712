//! Names of indices and data streams, made from a topic and an event's own time: `logs-{topic}-default`, `web-%Y.%m.%d`.
//!
//! The time is the event's, never now: what is delivered again after midnight goes where it went before. A name begins with
//! letters that the configuration says, so that no topic and no event can name an index that was not meant.
//! Invariant: what `render` gives is a name that OpenSearch takes.

use std::fmt::{self, Write as _};

use tailway_metadata::time::WallMs;
use time::OffsetDateTime;

/// Longest name that OpenSearch takes, in bytes.
const NAME_BYTES_MAX: usize = 255;
/// What OpenSearch takes in no name. Capitals are made small.
const FORBIDDEN: &[char] =
    &['\\', '/', '*', '?', '"', '<', '>', '|', ' ', ',', '#', ':', '%', '{', '}'];
/// The placeholder of the topic's name.
const TOPIC: &str = "{topic}";

/// A name with holes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Template {
    parts: Vec<Part>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Text(String),
    Topic,
    Year,
    Month,
    Day,
}

/// Why a text is no template.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TemplateError {
    #[error("it is empty")]
    Empty,
    #[error(
        "it does not begin with a letter or digit: whatever a topic is called, the name has to begin with one; write for example logs-{{topic}}"
    )]
    NoPrefix,
    #[error("{0:?} is not allowed in it; capitals are not either")]
    Character(char),
    #[error("there is no {{{0}}}, only {{topic}}")]
    Placeholder(String),
    #[error("there is no %{0}, only %Y, %m and %d")]
    Date(char),
    #[error("it is longer than 100 characters")]
    TooLong,
    #[error(
        "a data stream has no date in its name: it rolls over by itself; remove %Y, %m and %d, or write index:"
    )]
    Dated,
}

impl Template {
    pub fn parse(text: &str) -> Result<Self, TemplateError> {
        if text.is_empty() {
            return Err(TemplateError::Empty);
        }
        if text.len() > 100 {
            return Err(TemplateError::TooLong);
        }
        let mut parts = Vec::new();
        let mut rest = text;
        while let Some(first) = rest.chars().next() {
            if let Some(after) = rest.strip_prefix(TOPIC) {
                parts.push(Part::Topic);
                rest = after;
            } else if first == '{' {
                let name = rest[1..].split('}').next().unwrap_or_default();
                return Err(TemplateError::Placeholder(name.to_owned()));
            } else if let Some(after) = rest.strip_prefix('%') {
                let which = after.chars().next().unwrap_or(' ');
                parts.push(match which {
                    'Y' => Part::Year,
                    'm' => Part::Month,
                    'd' => Part::Day,
                    other => return Err(TemplateError::Date(other)),
                });
                rest = &after[which.len_utf8()..];
            } else {
                if FORBIDDEN.contains(&first) || first.is_uppercase() || !first.is_ascii() {
                    return Err(TemplateError::Character(first));
                }
                match parts.last_mut() {
                    Some(Part::Text(text)) => text.push(first),
                    _ => parts.push(Part::Text(first.to_string())),
                }
                rest = &rest[first.len_utf8()..];
            }
        }
        let template = Self { parts };
        let begins = template.prefix().starts_with(|c: char| c.is_ascii_alphanumeric());
        if begins { Ok(template) } else { Err(TemplateError::NoPrefix) }
    }

    /// As `parse`, for the name of a data stream.
    pub fn parse_data_stream(text: &str) -> Result<Self, TemplateError> {
        let template = Self::parse(text)?;
        if template.is_dated() { Err(TemplateError::Dated) } else { Ok(template) }
    }

    /// What all its names begin with. Never empty.
    pub fn prefix(&self) -> &str {
        match self.parts.first() {
            Some(Part::Text(text)) => text,
            _ => "",
        }
    }

    /// Whether events of different days go to different names.
    pub fn is_dated(&self) -> bool {
        self.parts.iter().any(|part| matches!(part, Part::Year | Part::Month | Part::Day))
    }

    /// The name for an event of this topic and time.
    pub fn render(&self, topic: &str, at: WallMs) -> String {
        let (year, month, day) = date_of(at);
        let mut name = String::new();
        for part in &self.parts {
            match part {
                Part::Text(text) => name.push_str(text),
                Part::Topic => name.extend(topic.chars().map(allowed)),
                Part::Year => push_number(&mut name, year, 4),
                Part::Month => push_number(&mut name, month.into(), 2),
                Part::Day => push_number(&mut name, day.into(), 2),
            }
        }
        // All of it is ASCII.
        name.truncate(NAME_BYTES_MAX);
        name
    }
}

impl fmt::Display for Template {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for part in &self.parts {
            match part {
                Part::Text(text) => f.write_str(text)?,
                Part::Topic => f.write_str(TOPIC)?,
                Part::Year => f.write_str("%Y")?,
                Part::Month => f.write_str("%m")?,
                Part::Day => f.write_str("%d")?,
            }
        }
        Ok(())
    }
}

fn allowed(c: char) -> char {
    match c {
        c if FORBIDDEN.contains(&c) || !c.is_ascii() => '_',
        c => c.to_ascii_lowercase(),
    }
}

fn push_number(name: &mut String, number: i32, digits: usize) {
    // Writing to a String cannot fail.
    write!(name, "{number:0digits$}").unwrap_or_default();
}

/// In UTC. A time that no calendar has stands at the epoch.
fn date_of(at: WallMs) -> (i32, u8, u8) {
    let at = OffsetDateTime::from_unix_timestamp(at.0.div_euclid(1_000));
    let date = at.ok().filter(|at| at.year() >= 0).unwrap_or(OffsetDateTime::UNIX_EPOCH).date();
    (date.year(), u8::from(date.month()), date.day())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        let at = WallMs(1_725_696_174_662);
        let cases = [
            ("logs-{topic}-default", "web", "logs-web-default"),
            ("logs-{topic}-default", "Web.A_b-c", "logs-web.a_b-c-default"),
            ("web-%Y.%m.%d", "x", "web-2024.09.07"),
            ("a{topic}%d", "x", "ax07"),
        ];
        for (text, topic, expected) in cases {
            let template = Template::parse(text).unwrap();
            assert_eq!(template.render(topic, at), expected, "{text}");
            assert_eq!(template.to_string(), text);
        }
        let template = Template::parse("d-%Y-%m-%d").unwrap();
        for (at, expected) in [
            (0, "d-1970-01-01"),
            (86_399_999, "d-1970-01-01"),
            (86_400_000, "d-1970-01-02"),
            (-1, "d-1969-12-31"),
            (i64::MAX, "d-1970-01-01"),
            (i64::MIN, "d-1970-01-01"),
        ] {
            assert_eq!(template.render("", WallMs(at)), expected, "{at}");
        }
        let long = Template::parse("a{topic}").unwrap().render(&"x".repeat(300), at);
        assert_eq!(long.len(), NAME_BYTES_MAX);
    }

    #[test]
    fn what_is_no_template_is_said() {
        for (text, expected) in [
            ("", TemplateError::Empty),
            ("{topic}-logs", TemplateError::NoPrefix),
            ("%Y-logs", TemplateError::NoPrefix),
            ("-logs", TemplateError::NoPrefix),
            (".logs", TemplateError::NoPrefix),
            ("_all", TemplateError::NoPrefix),
            ("a*", TemplateError::Character('*')),
            ("Logs", TemplateError::Character('L')),
            ("a,b", TemplateError::Character(',')),
            ("logs-{dataset}", TemplateError::Placeholder("dataset".into())),
            ("logs-%H", TemplateError::Date('H')),
            ("logs-%", TemplateError::Date(' ')),
        ] {
            assert_eq!(Template::parse(text), Err(expected), "{text}");
        }
        assert_eq!(Template::parse_data_stream("logs-%Y"), Err(TemplateError::Dated));
    }
}
