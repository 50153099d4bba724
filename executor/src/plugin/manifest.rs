//! `manifest.yaml` to a `Manifest`: what a plugin says of itself (`spec/plugins.md` 2, 10.2).
//! Unknown keys are passed over. A manifest decides nothing about privileges, and the text comes
//! from whoever wrote the plugin: nothing here trusts it.

use std::fmt;

use shared::id::{CommandName, PluginName};

use crate::yaml::{self, Kind, Node, Scalar, Value, YamlError, quoted};

/// The longest manifest that is read, in bytes.
pub const MAX_MANIFEST: usize = 256 * 1024;

/// A manifest that keeps its rules.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Manifest {
    pub name: PluginName,
    pub version: String,
    pub description: String,
    /// Relative to the plugin's directory; never contains `..`.
    pub entrypoint: String,
    pub concurrency_safe: bool,
    /// In the order written, at least one.
    pub commands: Vec<Command>,
    pub fact_outputs: Vec<FactOutput>,
    pub config_keys: ConfigKeys,
    /// `stopwatch.max_subs`: sub-spans kept of one response.
    pub max_subs: u32,
}

impl Manifest {
    /// The protocol number of every manifest that is accepted.
    pub const PROTOCOL: i64 = 2;

    /// The first command of that name.
    pub fn command(&self, name: &str) -> Option<&Command> {
        self.commands.iter().find(|command| command.name.as_str() == name)
    }
}

/// One operation of a plugin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Command {
    pub name: CommandName,
    /// `type: write`; decides which token may call it.
    pub writes: bool,
    pub description: String,
    pub idempotent: bool,
    pub retry_safe: bool,
    /// JSON, compact forms expanded.
    pub input_schema: Option<String>,
    pub output_schema: Option<String>,
    pub values: CommandValues,
}

/// Which payload values a command reads and sets, by name; descriptive only.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CommandValues {
    pub consume: Vec<String>,
    pub emit: Vec<EmittedValues>,
}

/// The values that one event of a command carries.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EmittedValues {
    pub event: String,
    pub values: Vec<String>,
}

/// A rule that records a command's `state_updates` as a fact.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FactOutput {
    pub command: CommandName,
    pub fact_type: String,
    /// `compatibility_view: mirror_object`: the fact replaces the plugin's state row.
    pub mirrors: bool,
}

/// `config_keys`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ConfigKeys {
    pub required: Vec<String>,
    pub optional: Vec<String>,
}

/// Why a text is no manifest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ManifestError {
    Yaml(YamlError),
    /// A value of the wrong type: key, what it should be, what it is, its line.
    WrongType {
        key: String,
        expected: &'static str,
        found: &'static str,
        line: usize,
    },
    Invalid(String),
}

impl fmt::Display for ManifestError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Yaml(error) => write!(f, "failed to parse manifest YAML: {error}"),
            Self::WrongType { key, expected, found, line } => {
                write!(f, "failed to parse manifest YAML: line {line}: {key}: expected {expected}, got {found}")
            }
            Self::Invalid(rule) => write!(f, "invalid manifest: {rule}"),
        }
    }
}

impl std::error::Error for ManifestError {}

fn invalid<T>(rule: impl Into<String>) -> Result<T, ManifestError> {
    Err(ManifestError::Invalid(rule.into()))
}

/// Reads a manifest and checks it in the order of the chapter; the first rule broken is told.
///
/// # Errors
/// `ManifestError`.
pub fn parse(text: &[u8]) -> Result<Manifest, ManifestError> {
    if text.len() > MAX_MANIFEST {
        return invalid(format!("larger than {MAX_MANIFEST} bytes"));
    }
    let node = yaml::parse(text, "manifest.yaml").map_err(ManifestError::Yaml)?;
    let manifest = Reader { node: &node, path: String::new() };
    match manifest.text("manifest_spec")?.trim() {
        "" => return invalid("manifest_spec is required"),
        "ductile.plugin" => {}
        other => {
            return invalid(format!("unsupported manifest_spec {} (supported: \"ductile.plugin\")", quoted(other)));
        }
    }
    match manifest.integer("manifest_version")? {
        0 => return invalid("manifest_version is required"),
        1 => {}
        other => return invalid(format!("unsupported manifest_version {other} (supported: 1)")),
    }
    let name = manifest.text("name")?;
    if name.is_empty() {
        return invalid("name is required");
    }
    let Ok(name) = PluginName::parse(name) else {
        return invalid(format!(
            "name {} can not be used (no '/', control characters or blanks around it)",
            quoted(name)
        ));
    };
    let protocol = manifest.integer("protocol")?;
    if protocol == 0 {
        return invalid("protocol version is required");
    }
    let entrypoint = manifest.text("entrypoint")?;
    if entrypoint.is_empty() {
        return invalid("entrypoint is required");
    }
    if entrypoint.contains("..") {
        return invalid(format!("entrypoint contains path traversal: {entrypoint}"));
    }
    if entrypoint.starts_with('/') || entrypoint.contains('\0') {
        return invalid(format!("entrypoint must be relative to the plugin directory: {}", quoted(entrypoint)));
    }
    let commands = commands(&manifest)?;
    let fact_outputs = fact_outputs(&manifest, &commands)?;
    let max_subs = max_subs(&manifest)?;
    let config_keys = manifest.child("config_keys")?;
    let config_keys = match &config_keys {
        Some(keys) => ConfigKeys { required: keys.texts("required")?, optional: keys.texts("optional")? },
        None => ConfigKeys::default(),
    };
    let manifest = Manifest {
        name,
        version: manifest.text("version")?.to_owned(),
        description: manifest.text("description")?.to_owned(),
        entrypoint: entrypoint.to_owned(),
        concurrency_safe: manifest.flag("concurrency_safe", true)?,
        commands,
        fact_outputs,
        config_keys,
        max_subs,
    };
    if protocol != Manifest::PROTOCOL {
        return invalid(format!("unsupported protocol version {protocol} (supported: {})", Manifest::PROTOCOL));
    }
    Ok(manifest)
}

fn commands(manifest: &Reader<'_>) -> Result<Vec<Command>, ManifestError> {
    let written = match manifest.get("commands") {
        None => &[],
        Some(Node { value: Value::List(items), .. }) => items.as_slice(),
        Some(_) => return invalid("commands must be a sequence"),
    };
    if written.is_empty() {
        return invalid("at least one command must be declared");
    }
    written.iter().enumerate().map(|(index, node)| command(index, node)).collect()
}

fn command(index: usize, node: &Node) -> Result<Command, ManifestError> {
    if !matches!(node.value, Value::Map(_)) {
        return invalid("invalid command entry (must be object with name/type)");
    }
    let reader = Reader { node, path: format!("commands[{index}]") };
    let object = |error: ManifestError| match error {
        ManifestError::WrongType { key, expected, found, line } => ManifestError::Invalid(format!(
            "invalid command object: line {line}: {key}: expected {expected}, got {found}"
        )),
        other => other,
    };
    let name = reader.text("name").map_err(object)?.trim();
    if name.is_empty() {
        return invalid("command name is required");
    }
    let writes = match reader.text("type").map_err(object)? {
        "" => return invalid(format!("command {} is missing required type", quoted(name))),
        "read" => false,
        "write" => true,
        other => return invalid(format!("command {} has invalid type {}", quoted(name), quoted(other))),
    };
    let Ok(parsed) = CommandName::parse(name) else {
        return invalid(format!(
            "invalid command {} (must start with a letter and contain only letters, digits, '_' or '-')",
            quoted(name)
        ));
    };
    Ok(Command {
        values: values(name, &reader).map_err(object)?,
        name: parsed,
        writes,
        description: reader.text("description").map_err(object)?.to_owned(),
        idempotent: reader.flag("idempotent", false).map_err(object)?,
        retry_safe: reader.flag("retry_safe", false).map_err(object)?,
        input_schema: reader.get("input_schema").map(schema).transpose()?,
        output_schema: reader.get("output_schema").map(schema).transpose()?,
    })
}

/// A schema as JSON: a mapping without `type` is a list of properties by their types.
fn schema(node: &Node) -> Result<String, ManifestError> {
    let expanded = match &node.value {
        Value::Map(entries) if node.get("type").is_none() => {
            let entry = |key: &str, node: Node| yaml::Entry { key: key.to_owned(), line: node.line, node };
            let map = |entries| Node { line: node.line, value: Value::Map(entries) };
            let text = |text: &str| Node {
                line: node.line,
                value: Value::Scalar(Scalar::new(Kind::Text, text.to_owned(), false)),
            };
            let property = |property: &yaml::Entry| {
                let is_text = property.node.scalar().is_some_and(|scalar| scalar.kind == Kind::Text);
                let value = property.node.clone();
                let value = if is_text { map(vec![entry("type", value)]) } else { value };
                entry(&property.key, value)
            };
            let properties = entries.iter().map(property).collect();
            map(vec![entry("type", text("object")), entry("properties", map(properties))])
        }
        _ => node.clone(),
    };
    expanded.to_json().map_err(|error| ManifestError::Invalid(format!("line {}: {error}", error.line)))
}

fn values(command: &str, reader: &Reader<'_>) -> Result<CommandValues, ManifestError> {
    let Some(written) = reader.child("values")? else { return Ok(CommandValues::default()) };
    let here = format!("command {} values", quoted(command));
    let consume = written.texts("consume")?;
    if let Some(value) = consume.iter().find(|value| !is_value_name(value)) {
        let value = quoted(value);
        return invalid(format!("{here}: invalid consume value {value} (expected payload.<name> or payload.*)"));
    }
    let mut emit = Vec::new();
    for emitted in written.children("emit")? {
        let event = emitted.text("event")?.trim();
        if event.is_empty() {
            return invalid(format!("{here}: emit event is required"));
        }
        let values = emitted.texts("values")?;
        if let Some(value) = values.iter().find(|value| !is_value_name(value)) {
            let (value, event) = (quoted(value), quoted(event));
            return invalid(format!(
                "{here}: invalid emit value {value} for event {event} (expected payload.<name> or payload.*)"
            ));
        }
        emit.push(EmittedValues { event: event.to_owned(), values });
    }
    Ok(CommandValues { consume, emit })
}

fn is_value_name(text: &str) -> bool {
    let is_segment =
        |segment: &str| !segment.is_empty() && segment.chars().all(|c| c.is_alphanumeric() || matches!(c, '_' | '-'));
    text.strip_prefix("payload.").is_some_and(|rest| rest == "*" || rest.split('.').all(is_segment))
}

fn fact_outputs(manifest: &Reader<'_>, commands: &[Command]) -> Result<Vec<FactOutput>, ManifestError> {
    let mut rules = Vec::new();
    for (index, rule) in manifest.children("fact_outputs")?.into_iter().enumerate() {
        let refuse = |text: String| invalid(format!("fact_outputs[{index}]: {text}"));
        let when = rule.child("when")?;
        let command = when.as_ref().map_or(Ok(""), |when| when.text("command"))?.trim();
        if command.is_empty() {
            return refuse("when.command is required".into());
        }
        let Some(command) = commands.iter().map(|command| &command.name).find(|name| name.as_str() == command) else {
            return refuse(format!("when.command {} is not declared in commands", quoted(command)));
        };
        match rule.text("from")? {
            "" => return refuse("from is required".into()),
            "state_updates" => {}
            other => return refuse(format!("unsupported from {}", quoted(other))),
        }
        let fact_type = rule.text("fact_type")?.trim();
        if fact_type.is_empty() {
            return refuse("fact_type is required".into());
        }
        let mirrors = match rule.text("compatibility_view")? {
            "" => false,
            "mirror_object" => true,
            other => return refuse(format!("unsupported compatibility_view {}", quoted(other))),
        };
        rules.push(FactOutput { command: command.clone(), fact_type: fact_type.to_owned(), mirrors });
    }
    Ok(rules)
}

fn max_subs(manifest: &Reader<'_>) -> Result<u32, ManifestError> {
    let written = manifest.child("stopwatch")?.map_or(Ok(0), |stopwatch| stopwatch.integer("max_subs"))?;
    match u32::try_from(written) {
        Ok(0) => Ok(32),
        Ok(count @ 1..=256) => Ok(count),
        _ => invalid(format!("stopwatch.max_subs {written} out of range [1, 256]")),
    }
}

/// A mapping of the manifest, and where it stands.
struct Reader<'n> {
    node: &'n Node,
    path: String,
}

impl<'n> Reader<'n> {
    /// The value of a key; `null` is none.
    fn get(&self, key: &str) -> Option<&'n Node> {
        self.node.get(key).filter(|node| !node.is_null())
    }

    fn wrong<T>(&self, key: &str, node: &Node, expected: &'static str) -> Result<T, ManifestError> {
        let key = if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) };
        Err(ManifestError::WrongType { key, expected, found: node.describe(), line: node.line })
    }

    fn text(&self, key: &str) -> Result<&'n str, ManifestError> {
        match self.get(key) {
            None => Ok(""),
            Some(node) => match node.scalar() {
                Some(scalar) => Ok(&scalar.text),
                None => self.wrong(key, node, "text"),
            },
        }
    }

    /// 0 when absent.
    fn integer(&self, key: &str) -> Result<i64, ManifestError> {
        let Some(node) = self.get(key) else { return Ok(0) };
        node.scalar().and_then(Scalar::as_integer).map_or_else(|| self.wrong(key, node, "a whole number"), Ok)
    }

    fn flag(&self, key: &str, default: bool) -> Result<bool, ManifestError> {
        let Some(node) = self.get(key) else { return Ok(default) };
        node.scalar().and_then(Scalar::as_bool).map_or_else(|| self.wrong(key, node, "true or false"), Ok)
    }

    fn child(&self, key: &str) -> Result<Option<Reader<'n>>, ManifestError> {
        match self.get(key) {
            None => Ok(None),
            Some(node @ Node { value: Value::Map(_), .. }) => Ok(Some(Reader { node, path: self.at(key) })),
            Some(node) => self.wrong(key, node, "a mapping"),
        }
    }

    fn list(&self, key: &str) -> Result<&'n [Node], ManifestError> {
        match self.get(key) {
            None => Ok(&[]),
            Some(Node { value: Value::List(items), .. }) => Ok(items),
            Some(node) => self.wrong(key, node, "a list"),
        }
    }

    fn children(&self, key: &str) -> Result<Vec<Reader<'n>>, ManifestError> {
        let child = |(index, node): (usize, &'n Node)| match node.value {
            Value::Map(_) => Ok(Reader { node, path: format!("{}[{index}]", self.at(key)) }),
            Value::Scalar(_) | Value::List(_) => self.wrong(&format!("{key}[{index}]"), node, "a mapping"),
        };
        self.list(key)?.iter().enumerate().map(child).collect()
    }

    fn texts(&self, key: &str) -> Result<Vec<String>, ManifestError> {
        let text = |(index, node): (usize, &Node)| match node.scalar() {
            Some(scalar) if scalar.kind != Kind::Null => Ok(scalar.text.clone()),
            _ => self.wrong(&format!("{key}[{index}]"), node, "text"),
        };
        self.list(key)?.iter().enumerate().map(text).collect()
    }

    fn at(&self, key: &str) -> String {
        if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) }
    }
}

#[cfg(test)]
mod tests;
