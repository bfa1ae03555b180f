//! A report of tests in the XML that CI systems read (JUnit).

use super::run::Outcome;

/// Escapes text for an element or an attribute: XML 1.0 allows no other control characters than these.
fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\n' => out.push_str("&#10;"),
            '\t' => out.push(c),
            c if c.is_control() || matches!(c, '\u{fffe}' | '\u{ffff}') => out.push('\u{fffd}'),
            c => out.push(c),
        }
    }
    out
}

/// The report of `outcomes`, the results of the tests of module `name`.
#[must_use]
pub fn report(name: &str, outcomes: &[Outcome]) -> String {
    let failed = outcomes.iter().filter(|outcome| !outcome.failures.is_empty()).count();
    let skipped = outcomes.iter().filter(|outcome| outcome.is_skipped()).count();
    let seconds: f64 = outcomes.iter().map(|outcome| outcome.elapsed.as_secs_f64()).sum();
    let (name, count) = (escaped(name), outcomes.len());
    let mut xml = format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<testsuites>\n<testsuite name=\"{name}\" tests=\"{count}\" \
         failures=\"{failed}\" errors=\"0\" skipped=\"{skipped}\" time=\"{seconds:.3}\">\n"
    );
    for outcome in outcomes {
        let (test, file) = (escaped(&outcome.test.name), escaped(&outcome.test.file));
        let (line, seconds) = (outcome.test.line, outcome.elapsed.as_secs_f64());
        xml.push_str(&format!(
            "<testcase classname=\"{name}\" name=\"{test}\" file=\"{file}\" line=\"{line}\" time=\"{seconds:.3}\">\n"
        ));
        if let Some(first) = outcome.failures.first() {
            let all = escaped(&outcome.failures.join("\n"));
            xml.push_str(&format!("<failure message=\"{}\">{all}</failure>\n", escaped(first)));
        } else if let Some(reason) = &outcome.skipped {
            xml.push_str(&format!("<skipped message=\"{}\"/>\n", escaped(reason)));
        }
        if !outcome.output.is_empty() {
            xml.push_str(&format!("<system-err>{}</system-err>\n", escaped(&outcome.output)));
        }
        xml.push_str("</testcase>\n");
    }
    xml.push_str("</testsuite>\n</testsuites>\n");
    xml
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_test_prints_can_not_end_its_element() {
        assert_eq!(escaped("]]></failure>\u{1b}[0m\n"), "]]&gt;&lt;/failure&gt;\u{fffd}[0m&#10;");
    }
}
