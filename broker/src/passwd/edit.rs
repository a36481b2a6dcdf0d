//! Changes to the text of a password file.
//! Always true: lines of other users stay byte for byte; a line that is none is an error with its number.
use super::Failed;

/// The new text, and whether the user was there before.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Edited {
    pub(super) text: String,
    pub(super) found: bool,
}

/// User and password of a line.
fn fields(line: &str) -> Option<(&str, &str)> {
    let mut fields = line.split(':').filter(|field| !field.is_empty());
    let (user, password) = (fields.next()?.trim(), fields.next()?.trim());
    (!user.is_empty() && !password.is_empty()).then_some((user, password))
}

/// Keeps each line or replaces it; `None` takes it away.
fn edit<E>(
    text: &str,
    corrupt: impl Fn(usize) -> E,
    mut each: impl FnMut(&str, &str, &str) -> Result<Option<String>, E>,
) -> Result<String, E> {
    let mut edited = String::with_capacity(text.len() + 256);
    for (index, line) in text.lines().enumerate() {
        let (user, password) = fields(line).ok_or_else(|| corrupt(index + 1))?;
        if let Some(line) = each(user, password, line)? {
            edited.push_str(&line);
            edited.push('\n');
        }
    }
    Ok(edited)
}

/// Replaces the user's first line with `new`, or adds it.
pub(super) fn set(text: &str, wanted: &str, new: &str) -> Result<Edited, usize> {
    let mut found = false;
    let mut text = edit(
        text,
        |line| line,
        |user, _, line| {
            let replaced = !found && user == wanted;
            found |= replaced;
            Ok(Some(if replaced { new.to_owned() } else { line.to_owned() }))
        },
    )?;
    if !found {
        text.push_str(new);
        text.push('\n');
    }
    Ok(Edited { text, found })
}

/// Takes the user away.
pub(super) fn delete(text: &str, wanted: &str) -> Result<Edited, usize> {
    let mut found = false;
    let text = edit(
        text,
        |line| line,
        |user, _, line| {
            found |= user == wanted;
            Ok((user != wanted).then(|| line.to_owned()))
        },
    )?;
    Ok(Edited { text, found })
}

/// Replaces every line by what `hashed` makes of user and password.
pub(super) fn hash_all(
    text: &str,
    mut hashed: impl FnMut(&str, &str) -> Result<String, Failed>,
) -> Result<String, Failed> {
    edit(text, super::corrupt, |user, password, _| hashed(user, password).map(Some))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_users_own_line_changes() {
        let text = "a:1\n b : 2\nc:3";
        let edited = |text: &str, found| Ok(Edited { text: text.to_owned(), found });
        assert_eq!(set(text, "b", "b:x"), edited("a:1\nb:x\nc:3\n", true));
        assert_eq!(set(text, "d", "d:x"), edited("a:1\n b : 2\nc:3\nd:x\n", false));
        assert_eq!(delete(text, "c"), edited("a:1\n b : 2\n", true));
        assert_eq!(delete(text, "d"), edited("a:1\n b : 2\nc:3\n", false));
        assert_eq!(delete("a:1\nb\n", "a"), Err(2));
        assert_eq!(set("", "a", "a:1"), edited("a:1\n", false));
    }
}
