//! The options of generation as arguments: made of the library's list of them.

use clap::builder::{PossibleValue, PossibleValuesParser};
use clap::{Arg, ArgAction, ArgMatches, Command};
use qllama::{Error, GenerateOptions, OptionField, Result, Takes};

/// The options that were given: names and values.
#[derive(Clone, Debug)]
pub struct GenerationArgs(Vec<(&'static str, String)>);

impl GenerationArgs {
    /// # Errors
    /// `E_INPUT` for a value of another form or out of range.
    pub fn options(&self) -> Result<GenerateOptions> {
        let given = self.0.iter().map(|(name, value)| (*name, value.as_str()));
        let checked = GenerateOptions::parse(given).and_then(|options| options.check().map(|()| options));
        checked.map_err(|error| match error {
            Error::Input { reason } => Error::Input { reason: with_flags(reason) },
            other => other,
        })
    }
}

/// A message with the names of options as the command line writes them.
fn with_flags(message: String) -> String {
    GenerateOptions::FIELDS.iter().fold(message, |text, field| text.replace(field.name, &format!("--{}", flag(field))))
}

/// `num_beams` to `num-beams`.
fn flag(field: &OptionField) -> String {
    field.name.replace('_', "-")
}

fn argument(field: &'static OptionField) -> Arg {
    let default = match field.default {
        "" => String::new(),
        _ if field.takes == Takes::Flag => String::new(),
        default => format!(" [default: {default}]"),
    };
    let argument = Arg::new(field.name)
        .long(flag(field))
        .help(format!("{}{default}", field.help))
        .help_heading("Generation")
        .allow_negative_numbers(true);
    match field.takes {
        Takes::Whole => argument.value_name("N"),
        Takes::Number => argument.value_name("X"),
        Takes::Ids => argument.value_name("ID,ID"),
        Takes::Flag => argument.action(ArgAction::SetTrue).allow_negative_numbers(false),
        Takes::OneOf(_) => argument.value_parser(words(field.name)),
    }
}

/// The words that an option of generation takes.
pub fn words(name: &str) -> PossibleValuesParser {
    let field = GenerateOptions::FIELDS.iter().find(|field| field.name == name);
    let Some(Takes::OneOf(words)) = field.map(|field| field.takes) else { panic!("{name} takes no words") };
    words.iter().map(|(word, help)| PossibleValue::new(*word).help(*help)).collect::<Vec<_>>().into()
}

impl clap::Args for GenerationArgs {
    fn augment_args(command: Command) -> Command {
        command.args(GenerateOptions::FIELDS.iter().map(argument))
    }

    fn augment_args_for_update(command: Command) -> Command {
        GenerationArgs::augment_args(command)
    }
}

impl clap::FromArgMatches for GenerationArgs {
    fn from_arg_matches(matches: &ArgMatches) -> std::result::Result<GenerationArgs, clap::Error> {
        let value = |field: &OptionField| match field.takes {
            Takes::Flag => matches.get_flag(field.name).then(|| "true".to_string()),
            _ => matches.get_one::<String>(field.name).cloned(),
        };
        let given = GenerateOptions::FIELDS.iter().filter_map(|field| Some((field.name, value(field)?)));
        Ok(GenerationArgs(given.collect()))
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> std::result::Result<(), clap::Error> {
        *self = GenerationArgs::from_arg_matches(matches)?;
        Ok(())
    }
}
