//! "Did you mean": the known name nearest to a misspelt one.

/// The nearest of `known`, if it is near enough to be what was meant.
pub(super) fn nearest<'a>(given: &str, known: &[&'a str]) -> Option<&'a str> {
    let given = given.to_lowercase().replace('-', "_");
    let (distance, name) = known
        .iter()
        .map(|name| (strsim::damerau_levenshtein(&given, &name.to_lowercase()), *name))
        .min()?;
    // A beginning of a word is meant as that word, unless another is one letter away.
    let begun = known.iter().find(|name| given.len() >= 3 && name.starts_with(&given));
    if let Some(begun) = begun.filter(|_| distance > 1) {
        return Some(begun);
    }
    let longest = given.chars().count().max(name.chars().count());
    (distance <= longest.div_ceil(3)).then_some(name)
}

/// `; did you mean `x`?`, else the list of what is known (while it is short).
pub(super) fn hint(given: &str, known: &[&str]) -> String {
    if let Some(name) = nearest(given, known) {
        return format!("; did you mean `{name}`?");
    }
    match known {
        [] => String::new(),
        [only] => format!("; the only one here is `{only}`"),
        _ => format!("; known here: {}", known.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn suggests_what_was_meant_and_nothing_absurd() {
        let known = ["address", "advertise", "protocol", "client_auth"];
        assert_eq!(nearest("adress", &known), Some("address"));
        assert_eq!(nearest("client-auth", &known), Some("client_auth"));
        assert_eq!(nearest("protcool", &known), Some("protocol"));
        assert_eq!(nearest("proto", &known), Some("protocol"));
        assert_eq!(nearest("retention", &known), None);
        assert_eq!(hint("zzz", &["only"]), "; the only one here is `only`");
    }
}
