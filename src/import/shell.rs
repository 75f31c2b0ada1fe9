//! As much of the shell's language as people write trainings in: words, quotes, continued lines, comments, variables, arrays, `cd`.

use std::{collections::BTreeMap, iter::Peekable, str::Chars};

/// A command of a script.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Command {
    /// The line that it begins on, from 1.
    pub line: usize,
    /// Its words, after expansion.
    pub words: Vec<String>,
    /// What in it only a shell can work out: `$(date)`, or a variable that is set nowhere.
    pub unclear: Vec<String>,
}

/// Reads a script. Variables that it does not set are looked up in the `environment`.
pub fn commands(script: &str, environment: &dyn Fn(&str) -> Option<String>) -> Vec<Command> {
    let mut reader = Reader {
        characters: script.chars().peekable(),
        line: 1,
        environment,
        variables: BTreeMap::new(),
        array: None,
        command: Command::default(),
        commands: Vec::new(),
    };
    while reader.word() {}
    reader.end_command();
    reader.commands
}

/// What a variable holds: the words of an array, of which other variables have one; and what of them is unclear.
type Variable = (Vec<String>, Vec<String>);

struct Reader<'r> {
    characters: Peekable<Chars<'r>>,
    line: usize,
    environment: &'r dyn Fn(&str) -> Option<String>,
    variables: BTreeMap<String, Variable>,
    /// The name of the array that is being read, and the command that it stands in.
    array: Option<(String, Command)>,
    command: Command,
    commands: Vec<Command>,
}

/// A word while it is read. One that came of nothing but empty variables is none.
#[derive(Default)]
struct Word {
    text: String,
    quoted: bool,
    /// An array without words stands in its quotes, which then make no word of nothing.
    vanishes: bool,
}

impl Reader<'_> {
    fn next(&mut self) -> Option<char> {
        let next = self.characters.next();
        self.line += usize::from(next == Some('\n'));
        next
    }

    /// Reads up to the end of a word; false at the end of the script.
    fn word(&mut self) -> bool {
        let mut word = Word::default();
        loop {
            let Some(&next) = self.characters.peek() else {
                self.end_word(word);
                return false;
            };
            let begun = word.quoted || !word.text.is_empty();
            match next {
                '#' if !begun => while self.characters.next_if(|c| *c != '\n').is_some() {},
                next if next.is_whitespace() && (next != '\n' || self.array.is_some()) => {
                    self.next();
                    if begun {
                        break;
                    }
                }
                '\n' | ';' | '&' | '|' | '<' | '>' => {
                    let redirects = matches!(next, '<' | '>');
                    let duplicates = redirects && !word.quoted && word.text.bytes().all(|byte| byte.is_ascii_digit());
                    self.end_word(if duplicates { Word::default() } else { word });
                    self.next();
                    match redirects {
                        true => self.skip_redirection(),
                        false => self.end_command(),
                    }
                    return true;
                }
                '(' if let Some((name, adds)) = array_name(&word.text) => {
                    self.next();
                    self.begin_array(name, adds);
                    return true;
                }
                ')' if self.array.is_some() => {
                    self.end_word(word);
                    self.next();
                    self.end_array();
                    return true;
                }
                _ => {
                    if !begun && self.command.words.is_empty() {
                        self.command.line = self.line;
                    }
                    self.next();
                    self.piece(next, &mut word);
                }
            }
        }
        self.end_word(word);
        true
    }

    /// Takes in what begins with this character, which has been read.
    fn piece(&mut self, first: char, word: &mut Word) {
        match first {
            '\\' => match self.next() {
                // A continued line, also of a file from Windows.
                Some('\n') => {}
                Some('\r') if self.characters.peek() == Some(&'\n') => drop(self.next()),
                Some(escaped) => word.text.push(escaped),
                None => {}
            },
            '\'' => {
                word.quoted = true;
                while let Some(next) = self.next().filter(|c| *c != '\'') {
                    word.text.push(next);
                }
            }
            '"' => {
                word.quoted = true;
                while let Some(next) = self.next().filter(|c| *c != '"') {
                    match next {
                        '\\' => match self.next() {
                            Some('\n') | None => {}
                            Some(escaped @ ('"' | '\\' | '$' | '`')) => word.text.push(escaped),
                            Some(other) => word.text.extend(['\\', other]),
                        },
                        '$' | '`' => self.expand(next, word, true),
                        next => word.text.push(next),
                    }
                }
            }
            '$' | '`' => self.expand(first, word, false),
            '~' if word.text.is_empty() && !word.quoted && self.characters.peek() == Some(&'/') => {
                word.text += &(self.environment)("HOME").unwrap_or_else(|| "~".to_owned());
            }
            first => word.text.push(first),
        }
    }

    /// What stands behind a `$` or a backtick.
    fn expand(&mut self, first: char, word: &mut Word, quoted: bool) {
        let mut name = String::new();
        let mut fallback = None;
        match self.characters.peek().copied() {
            _ if first == '`' => {
                let inside: String = std::iter::from_fn(|| self.next().filter(|c| *c != '`')).collect();
                return self.leave_open(format!("`{inside}`"), word);
            }
            Some('(') => {
                let mut depth = 0;
                let mut text = "$".to_owned();
                while let Some(next) = self.next() {
                    text.push(next);
                    depth += i32::from(next == '(') - i32::from(next == ')');
                    if depth == 0 {
                        break;
                    }
                }
                return self.leave_open(text, word);
            }
            Some('{') => {
                self.next();
                let inside: String = std::iter::from_fn(|| self.next().filter(|c| *c != '}')).collect();
                name = inside.clone();
                if let Some((before, after)) = inside.split_once(":-") {
                    (name, fallback) = (before.to_owned(), Some(after.to_owned()));
                }
            }
            Some(next) if next.is_ascii_alphabetic() || next == '_' => {
                while let Some(next) = self.characters.next_if(|c| c.is_ascii_alphanumeric() || *c == '_') {
                    name.push(next);
                }
            }
            Some('@' | '*') => {
                // What the script itself is given: nothing.
                self.next();
                word.vanishes = true;
                return;
            }
            _ => return word.text.push(first),
        }
        let whole = name.strip_suffix("[@]").or_else(|| name.strip_suffix("[*]"));
        let (values, unclear) = match self.variables.get(whole.unwrap_or(&name)) {
            Some(variable) => variable.clone(),
            None => match (self.environment)(&name).or(fallback) {
                Some(value) => (vec![value], Vec::new()),
                None => return self.leave_open(format!("${name}"), word),
            },
        };
        self.command.unclear.extend(unclear);
        // Outside of quotes what a variable holds is words again.
        let pieces: Vec<String> = match quoted {
            _ if whole.is_some() => values,
            true => vec![values.into_iter().next().unwrap_or_default()],
            false => values.into_iter().take(1).flat_map(|value| words(&value)).collect(),
        };
        word.vanishes |= whole.is_some() && pieces.is_empty();
        for (index, piece) in pieces.into_iter().enumerate() {
            if index > 0 {
                let before = std::mem::take(word);
                self.end_word(before);
                word.quoted = quoted;
            }
            word.text.push_str(&piece);
        }
    }

    fn leave_open(&mut self, text: String, word: &mut Word) {
        word.text.push_str(&text);
        self.command.unclear.push(text);
    }

    /// Begins `NAME=(…)`, whose words are read as those of a command of their own.
    fn begin_array(&mut self, name: &str, adds: bool) {
        let known = if adds { self.variables.get(name).cloned().unwrap_or_default() } else { Variable::default() };
        let inside = Command { words: known.0, unclear: known.1, ..Command::default() };
        self.array = Some((name.to_owned(), std::mem::replace(&mut self.command, inside)));
    }

    fn end_array(&mut self) {
        if let Some((name, outer)) = self.array.take() {
            let inside = std::mem::replace(&mut self.command, outer);
            self.variables.insert(name, (inside.words, inside.unclear));
        }
    }

    fn end_word(&mut self, word: Word) {
        if !word.text.is_empty() || (word.quoted && !word.vanishes) {
            self.command.words.push(word.text);
        }
    }

    /// Files a command; assignments in front of it, or alone, set variables.
    fn end_command(&mut self) {
        let mut command = std::mem::take(&mut self.command);
        if command.words.first().is_some_and(|word| ["export", "declare", "local"].contains(&word.as_str())) {
            command.words.remove(0);
        }
        while let Some((name, value)) = command.words.first().and_then(|word| assignment(word)) {
            let unclear = if command.words.len() == 1 { std::mem::take(&mut command.unclear) } else { Vec::new() };
            self.variables.insert(name.to_owned(), (vec![value.to_owned()], unclear));
            command.words.remove(0);
        }
        if !command.words.is_empty() {
            self.commands.push(command);
        }
    }

    fn skip_redirection(&mut self) {
        while self.characters.next_if(|c| matches!(c, '>' | '&' | ' ' | '\t')).is_some() {}
        while self.characters.next_if(|c| !matches!(c, ' ' | '\t' | '\r' | '\n' | ';' | '|' | '&')).is_some() {}
    }
}

/// `NAME` and `value` of a word `NAME=value`.
fn assignment(word: &str) -> Option<(&str, &str)> {
    word.split_once('=').filter(|(name, _)| is_name(name))
}

/// `NAME` of `NAME=` or `NAME+=`, and whether it adds.
fn array_name(word: &str) -> Option<(&str, bool)> {
    let name = word.strip_suffix('=')?;
    let plain = name.strip_suffix('+').unwrap_or(name);
    is_name(plain).then_some((plain, plain != name))
}

fn is_name(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && text.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
}

fn words(text: &str) -> Vec<String> {
    text.split_whitespace().map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(script: &str) -> Vec<Vec<String>> {
        commands(script, &|_| None).into_iter().map(|command| command.words).collect()
    }

    #[test]
    fn words_are_what_a_shell_makes_of_them() {
        for (script, words) in [
            (r#"a "b c" 'd "e' f\ g"#, vec!["a", "b c", "d \"e", "f g"]),
            ("a \\\n  b # c\n", vec!["a", "b"]),
            ("a \\\r\n  b\r\n", vec!["a", "b"]),
            (r#"a --b="c d" '' "" #"#, vec!["a", "--b=c d", "", ""]),
            ("a#b", vec!["a#b"]),
            (r#"a "$" \$x '$x' "\n""#, vec!["a", "$", "$x", "$x", "\\n"]),
            ("a 2>&1 > log.txt", vec!["a"]),
            ("a b2> log.txt", vec!["a", "b2"]),
        ] {
            assert_eq!(read(script), [words], "{script}");
        }
    }

    #[test]
    fn variables_and_arrays_are_expanded_where_they_are_set_before() {
        let script = r#"
            export MODEL="/models/my model.safetensors" # a comment's "quote
            RATE=1e-4
            TWO="--a 1"
            ARGS=(
                --rate "$RATE"   # so much
                --model "${MODEL}"
            )
            ARGS+=(--seed 1)
            run "$MODEL" $TWO "$TWO" x${RATE}y "${ARGS[@]}" ${LATER:-7} "$@"
            RATE=2e-4
        "#;
        let expected = [
            "run",
            "/models/my model.safetensors",
            "--a",
            "1",
            "--a 1",
            "x1e-4y",
            "--rate",
            "1e-4",
            "--model",
            "/models/my model.safetensors",
            "--seed",
            "1",
            "7",
        ];
        assert_eq!(read(script), [expected]);
    }

    #[test]
    fn what_only_a_shell_can_know_is_told_for_the_command_that_needs_it() {
        let script = "A=$(date (now))\nfirst `x y` && second $A\nthird $NONE \"${HOME}\" ~/x a~/x\nfourth";
        let found = commands(script, &|name| (name == "HOME").then(|| "/home".to_owned()));
        let unclear: Vec<Vec<String>> = found.iter().map(|command| command.unclear.clone()).collect();
        assert_eq!(unclear, [vec!["`x y`"], vec!["$(date (now))"], vec!["$NONE"], vec![]]);
        assert_eq!(found[2].words, ["third", "$NONE", "/home", "/home/x", "a~/x"]);
        assert_eq!(found.iter().map(|command| command.line).collect::<Vec<_>>(), [2, 2, 3, 4]);
    }

    #[test]
    fn no_text_is_too_broken_to_be_read() {
        for script in ["'", "\"", "\\", "$", "${", "$(", "`", "A=(", "a >", ")", "A=( $( ", "\"${x[@]}"] {
            commands(script, &|_| None);
        }
    }
}
