//! The command line as a whole.

use clap::CommandFactory;

use super::*;

fn each(command: &clap::Command, visit: &mut impl FnMut(&clap::Command)) {
    visit(command);
    for sub in command.get_subcommands() {
        each(sub, visit);
    }
}

#[test]
fn the_command_line_is_consistent() {
    Arguments::command().debug_assert();
}

#[test]
fn the_grouped_list_names_every_command_as_it_describes_itself() {
    for command in Arguments::command().get_subcommands() {
        let about = command.get_about().unwrap().to_string();
        let listed = TEMPLATE.lines().find_map(|line| {
            let text = line.strip_prefix("  ")?.strip_prefix(command.get_name())?;
            text.starts_with(' ').then(|| text.trim())
        });
        let listed = listed.unwrap_or_else(|| panic!("{} is not listed", command.get_name()));
        assert!(about.starts_with(listed), "{listed:?} is not {about:?}");
    }
}

#[test]
fn every_command_says_what_it_does_and_every_leaf_has_an_example() {
    each(&Arguments::command(), &mut |command| {
        let name = command.get_name();
        assert!(command.get_about().is_some(), "{name}");
        for argument in command.get_arguments() {
            assert!(argument.get_help().is_some(), "{name}: {}", argument.get_id());
        }
        if command.get_subcommands().next().is_none() {
            let after = command.get_after_help().map(ToString::to_string);
            assert!(after.is_some_and(|text| text.contains("  ctl ")), "{name}");
        }
    });
}

#[test]
fn help_fits_eighty_columns_where_it_is_ours() {
    each(&Arguments::command(), &mut |command| {
        let after = command.get_after_help().map(ToString::to_string).unwrap_or_default();
        for line in TEMPLATE.lines().chain(after.lines()) {
            assert!(line.chars().count() <= 90, "{}: {line}", command.get_name());
        }
    });
}
