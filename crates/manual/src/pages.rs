//! A command's manual: clap_mangen's sections, and those that it does not know.

use clap::Command;
use clap_mangen::Man;
use tailway_daemon::exit::Exit;

use crate::{DAEMONS, Program};

/// A file below `man/`.
pub(crate) struct Page {
    pub(crate) file: String,
    pub(crate) text: Vec<u8>,
}

/// What stands at the top of each page.
pub(crate) const MANUAL: &str = "Tailway";
pub(crate) const SOURCE: &str = concat!("tailway ", env!("CARGO_PKG_VERSION"));

/// The pages of a program and of all commands below it.
pub(crate) fn of(program: Program) -> Vec<Page> {
    let Program { command, section } = program;
    let mut command = command.disable_help_subcommand(true);
    command.build();
    let mut pages = Vec::new();
    collect(&command, section, None, &mut pages);
    pages
}

fn collect(command: &Command, section: &str, parent: Option<&str>, pages: &mut Vec<Page>) {
    let page = page(command, section, parent);
    let own = page.file.clone();
    pages.push(page);
    for inner in shown(command) {
        collect(inner, section, Some(&own), pages);
    }
}

/// Those that `--help` shows.
fn shown(command: &Command) -> impl Iterator<Item = &Command> {
    command.get_subcommands().filter(|inner| !inner.is_hide_set())
}

fn page(command: &Command, section: &str, parent: Option<&str>) -> Page {
    let examples = command.get_after_help().map(ToString::to_string).unwrap_or_default();
    let man = Man::new(command.clone()).section(section).date("").source(SOURCE).manual(MANUAL);
    let file = man.get_filename();
    let mut text = Vec::new();
    let has_options = command.get_arguments().any(|argument| !argument.is_hide_set());
    let written = man
        .render_title(&mut text)
        .and_then(|()| man.render_name_section(&mut text))
        .and_then(|()| man.render_synopsis_section(&mut text))
        .and_then(|()| man.render_description_section(&mut text))
        .and_then(|()| if has_options { man.render_options_section(&mut text) } else { Ok(()) })
        .and_then(|()| {
            if command.has_subcommands() {
                man.render_subcommands_section(&mut text)
            } else {
                Ok(())
            }
        });
    debug_assert!(written.is_ok(), "a Vec takes everything");
    let mut rest = verbatim("EXAMPLES", examples.lines().skip(1).map(str::trim_start));
    rest.push_str(&exit_status());
    rest.push_str(&files_and_more(command, section, parent));
    text.extend_from_slice(rest.as_bytes());
    Page { file, text }
}

/// The same codes for every command: what a script learns once holds everywhere.
fn exit_status() -> String {
    let one = |exit: Exit| format!(".TP\n.B {}\n{}\n", exit.code(), escaped(exit.meaning()));
    [".SH \"EXIT STATUS\"\n".to_owned()].into_iter().chain(Exit::ALL.map(one)).collect()
}

fn files_and_more(command: &Command, section: &str, parent: Option<&str>) -> String {
    let mut text = String::new();
    let name = command.get_display_name().unwrap_or_else(|| command.get_name()).to_owned();
    let mut also = Vec::new();
    if let Some((daemon, config)) = DAEMONS.iter().find(|(daemon, _)| name == *daemon)
        && command.get_arguments().any(|argument| argument.get_id() == "config")
    {
        text = format!(
            ".SH FILES\n.TP\n.I {}\nThe configuration; all its keys are in\n.BR {daemon}.yaml (5).\n",
            escaped(config)
        );
        also.push(format!("{daemon}.yaml.5"));
    }
    also.extend(parent.map(str::to_owned));
    also.extend(shown(command).map(|inner| format!("{name}-{}.{section}", inner.get_name())));
    if parent.is_none() && name == "tailway" {
        also.extend(DAEMONS.iter().map(|(daemon, _)| format!("{daemon}.8")));
    }
    text.push_str(&see_also(&also));
    text
}

/// References to pages, by their files' names.
pub(crate) fn see_also(files: &[String]) -> String {
    let refer = |file: &String| {
        let (name, section) = file.rsplit_once('.').unwrap_or((file, "1"));
        format!(".BR {} ({section})", escaped(name))
    };
    let references: Vec<String> = files.iter().map(refer).collect();
    if references.is_empty() {
        return String::new();
    }
    format!(".SH \"SEE ALSO\"\n{}\n", references.join(",\n"))
}

/// Lines that are shown as they are.
pub(crate) fn verbatim<'a>(heading: &str, lines: impl Iterator<Item = &'a str>) -> String {
    let mut text = format!(".SH {heading}\n.nf\n");
    for line in lines {
        text.push_str(&escaped(line));
        text.push('\n');
    }
    text.push_str(".fi\n");
    text
}

/// No character of a text means anything to roff: not a backslash, and not a dot or a quote that begins a line.
pub(crate) fn escaped(text: &str) -> String {
    let text = text.replace('\\', "\\e").replace('-', "\\-").replace('\'', "\\(aq");
    if text.starts_with('.') { format!("\\&{text}") } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_in_an_example_is_taken_for_roff() {
        assert_eq!(escaped(".TH a\\b -c 'd'"), "\\&.TH a\\eb \\-c \\(aqd\\(aq");
    }
}
