//! A program's table: its options as text, each with its line, for the program's own flags to check.

use std::ops::Range;

use toml::Spanned;
use toml::de::DeValue;

/// `[l2fwd]`, `[gen]` and the like.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProgramTable {
    /// The program's name.
    pub name: String,
    /// Its options, in the file's order.
    pub options: Vec<ProgramOption>,
}

/// One `key = value` of a program's table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProgramOption {
    /// The key: a long flag without its dashes.
    pub key: String,
    /// The values as one would type them; of `true` or `false` just that word.
    pub values: Vec<String>,
    /// True if the value is a boolean, so that the flag is given or not given.
    pub is_switch: bool,
    /// Line in the file, from 1.
    pub line: usize,
}

/// Reads a program's table; `line_of` gives the line of a byte offset. The error is a place and a sentence.
pub(super) fn read(
    name: &str,
    value: Spanned<DeValue<'_>>,
    line_of: impl Fn(usize) -> usize,
) -> Result<ProgramTable, (Range<usize>, String)> {
    let span = value.span();
    let DeValue::Table(table) = value.into_inner() else {
        return Err((span, format!("`{name}` must be a table: [{name}] and below it key = value lines")));
    };
    let mut options = Vec::new();
    for (key, value) in table {
        let span = value.span();
        let unusable = |kind: &str| {
            (
                span.clone(),
                format!("`{}` has {kind}; use a string, number, boolean or a list of them", key.get_ref()),
            )
        };
        let is_switch = matches!(value.get_ref(), DeValue::Boolean(_));
        let values = match value.get_ref() {
            DeValue::Array(list) => list
                .iter()
                .map(|value| scalar(value.get_ref()).ok_or_else(|| unusable("a list of lists or tables")))
                .collect::<Result<_, _>>()?,
            single => vec![scalar(single).ok_or_else(|| unusable("a table or a date"))?],
        };
        let line = line_of(key.span().start);
        options.push(ProgramOption { key: key.get_ref().to_string(), values, is_switch, line });
    }
    options.sort_by_key(|option| option.line);
    Ok(ProgramTable { name: name.to_string(), options })
}

fn scalar(value: &DeValue<'_>) -> Option<String> {
    match value {
        DeValue::String(text) => Some(text.to_string()),
        DeValue::Integer(number) => Some(number.to_string()),
        DeValue::Float(number) => Some(number.to_string()),
        DeValue::Boolean(truth) => Some(truth.to_string()),
        DeValue::Datetime(_) | DeValue::Array(_) | DeValue::Table(_) => None,
    }
}
