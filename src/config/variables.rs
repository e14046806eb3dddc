//! Variables of the environment in string values: `${NAME}` stands for the value of NAME, and `$${` for a literal `${`.
//!
//! `form` calls [`replace`] for every string that it reads. A variable that is not set is an error, because an empty value in its
//! place would start a proxy that does something else than what was meant. A value is used as it is: variables in it are not
//! replaced.

use std::borrow::Cow;
use std::env::VarError;

use super::value::Error;

/// Reads a variable of the environment of this process.
pub(crate) fn of_process(name: &str) -> Result<String, VarError> {
    std::env::var(name)
}

/// Returns the text with the values of the variables that it names.
///
/// # Errors
///
/// A variable is not set or is not UTF-8, or `${` is not followed by a name and `}`.
pub(crate) fn replace(
    text: &str,
    value_of: impl Fn(&str) -> Result<String, VarError>,
) -> Result<Cow<'_, str>, Error> {
    let Some((mut before, mut rest)) = text.split_once(OPEN) else {
        return Ok(Cow::Borrowed(text));
    };
    let mut replaced = String::new();
    loop {
        if let Some(before) = before.strip_suffix('$') {
            replaced.push_str(before);
            replaced.push_str(OPEN);
        } else {
            replaced.push_str(before);
            let (name, after) = rest.split_once('}').ok_or(Error::NoVariableName)?;
            if !is_name(name) {
                return Err(Error::NoVariableName);
            }
            let value = value_of(name).map_err(|error| {
                let name = name.to_owned();
                match error {
                    VarError::NotPresent => Error::UnsetVariable { name },
                    VarError::NotUnicode(_) => Error::VariableNotText { name },
                }
            })?;
            replaced.push_str(&value);
            rest = after;
        }
        let Some(next) = rest.split_once(OPEN) else {
            replaced.push_str(rest);
            return Ok(Cow::Owned(replaced));
        };
        (before, rest) = next;
    }
}

/// Whether the text can be the name of a variable (POSIX.1-2024, XBD section 8.1), with letters in both cases.
fn is_name(text: &str) -> bool {
    let is_word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    !text.is_empty() && !text.starts_with(|c: char| c.is_ascii_digit()) && text.chars().all(is_word)
}

const OPEN: &str = "${";

#[cfg(test)]
mod tests {
    use super::*;

    fn replaced(text: &str) -> Result<String, String> {
        let value_of = |name: &str| match name {
            "HOST" => Ok("docker.example.com".to_owned()),
            "EMPTY" => Ok(String::new()),
            "NESTED" => Ok("${HOST}".to_owned()),
            "BAD" => Err(VarError::NotUnicode("x".into())),
            _ => Err(VarError::NotPresent),
        };
        let replaced = replace(text, value_of);
        replaced
            .map(Cow::into_owned)
            .map_err(|error| error.to_string())
    }

    #[test]
    fn names_are_replaced_once_and_two_dollar_signs_stand_for_one() {
        for (text, expected) in [
            ("plain $HOST {HOST} $", "plain $HOST {HOST} $"),
            ("${HOST}", "docker.example.com"),
            (
                "a${EMPTY}b ${HOST}:${HOST}$",
                "ab docker.example.com:docker.example.com$",
            ),
            ("${NESTED}", "${HOST}"),
            ("$${HOST}", "${HOST}"),
            ("$$${HOST}", "$${HOST}"),
            ("$${", "${"),
            ("$${x ${HOST}", "${x docker.example.com"),
            ("${HOST}$${", "docker.example.com${"),
        ] {
            assert_eq!(replaced(text).as_deref(), Ok(expected), "{text}");
        }
    }

    #[test]
    fn a_variable_without_a_value_or_a_name_is_an_error() {
        for (text, part) in [
            ("${MISSING}", "the environment variable MISSING is not set"),
            ("${HOST}${MISSING}", "MISSING is not set"),
            ("${BAD}", "BAD is not UTF-8"),
            ("${", "not followed by the name"),
            ("${HOST", "not followed by the name"),
            ("${}", "not followed by the name"),
            ("${1}", "not followed by the name"),
            ("${HOST:-other}", "not followed by the name"),
            ("${ HOST }", "not followed by the name"),
        ] {
            let error = replaced(text).unwrap_err();
            assert!(error.contains(part), "{text}: {error}");
        }
    }
}
