//! Operations and answers as they travel between nodes: MessagePack with names, so
//! that nodes of neighbouring versions understand each other.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use rung_proto::NodeId;
use rung_sql::{
    Complete, Context, Description, Effects, Formats, Parameters, PgType, ResultColumn, SqlError,
    SqlState, Statement, TimeZone, TypeUse,
};
use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;

use crate::backend::{Answer, Call, Failure, Level, Open, Operation};
use crate::rows::Rows;

/// How a stream begins.
#[derive(Serialize, Deserialize)]
pub struct Header {
    pub purpose: Purpose,
}

#[derive(Serialize, Deserialize)]
pub enum Purpose {
    Session { database: String },
    Cancel { process: i32, secret: i32 },
}

impl Header {
    pub fn encode(&self) -> Bytes {
        // Writing to memory fails only for types that MessagePack does not have.
        rmp_serde::to_vec_named(self).unwrap_or_default().into()
    }

    pub fn decode(bytes: &[u8]) -> Option<Self> {
        rmp_serde::from_slice(bytes).ok()
    }
}

/// The time left for an operation, in front of its request.
pub fn deadline(left: Duration) -> [u8; 8] {
    u64::try_from(left.as_millis()).unwrap_or(u64::MAX).to_be_bytes()
}

/// Takes the time left off the front of a body.
pub fn split_deadline(body: &Bytes) -> Option<(Duration, Bytes)> {
    let left = body.get(..8)?.try_into().ok()?;
    let left = Duration::from_millis(u64::from_be_bytes(left).min(7 * 86_400_000));
    Some((left, body.slice(8..)))
}

/// What rarely changes in a session, sent when it did.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct SessionForm {
    user: String,
    application_name: String,
    node: String,
    settings: BTreeMap<String, String>,
    search_path: String,
    time_zone: String,
    backend_pid: i32,
    sequence_values: BTreeMap<String, i64>,
    last_sequence: Option<String>,
}

/// What one side has told the other of the session.
#[derive(Default)]
pub struct CallForms {
    told: Option<SessionForm>,
    /// The context that the last form was made of.
    of: Option<Context>,
}

impl CallForms {
    /// What must be told of the session before this call.
    fn news(&mut self, context: &Context) -> Option<SessionForm> {
        if self.of.as_ref().is_some_and(|of| is_same_session(of, context)) {
            return None;
        }
        let form = SessionForm {
            user: context.user.to_string(),
            application_name: context.application_name.to_string(),
            node: context.node.to_string(),
            settings: (*context.settings).clone(),
            search_path: context.search_path.to_string(),
            time_zone: context.time_zone.name().to_owned(),
            backend_pid: context.backend_pid,
            sequence_values: (*context.sequence_values).clone(),
            last_sequence: context.last_sequence.as_ref().map(|name| name.to_string()),
        };
        self.of = Some(context.clone());
        Some(form)
    }

    /// Takes what is told, and makes a call whole again.
    pub fn context(&mut self, form: &CallForm, database: &str) -> Option<Context> {
        if let Some(session) = &form.session {
            self.told = Some(session.clone());
        }
        let told = self.told.as_ref()?;
        let mut context = Context::new(&told.user, database);
        context.application_name = told.application_name.as_str().into();
        context.node = told.node.as_str().into();
        context.settings = Arc::new(told.settings.clone());
        context.search_path = told.search_path.as_str().into();
        context.time_zone = TimeZone::parse(&told.time_zone).unwrap_or_default();
        context.backend_pid = told.backend_pid;
        context.sequence_values = Arc::new(told.sequence_values.clone());
        context.last_sequence = told.last_sequence.as_deref().map(Into::into);
        context.statement_time = form.statement_time;
        context.transaction_time = form.transaction_time;
        context.transaction_id = form.transaction_id;
        Some(context)
    }
}

/// Whether nothing but the times differ. What is shared is compared by place.
fn is_same_session(one: &Context, other: &Context) -> bool {
    Arc::ptr_eq(&one.settings, &other.settings)
        && Arc::ptr_eq(&one.sequence_values, &other.sequence_values)
        && one.user == other.user
        && one.application_name == other.application_name
        && one.search_path == other.search_path
        && one.time_zone.name() == other.time_zone.name()
        && one.last_sequence == other.last_sequence
}

#[derive(Debug, Serialize, Deserialize)]
pub struct CallForm {
    text: String,
    types: Vec<Option<PgType>>,
    values: Vec<Option<ByteBuf>>,
    formats: Vec<i16>,
    result_formats: Vec<i16>,
    session: Option<SessionForm>,
    statement_time: i64,
    transaction_time: i64,
    transaction_id: u64,
}

impl CallForm {
    fn new(call: &Call, known: &mut CallForms) -> Self {
        let value = |value: &Option<Bytes>| value.as_ref().map(|v| ByteBuf::from(v.to_vec()));
        Self {
            text: call.statement.text().to_owned(),
            types: call.types.to_vec(),
            values: call.parameters.values.iter().map(value).collect(),
            formats: call.parameters.formats.0.clone(),
            result_formats: call.formats.0.clone(),
            session: known.news(&call.context),
            statement_time: call.context.statement_time,
            transaction_time: call.context.transaction_time,
            transaction_id: call.context.transaction_id,
        }
    }

    pub fn text(&self) -> &str {
        &self.text
    }

    pub fn into_call(self, statement: Statement, context: Context) -> Call {
        let value = |value: Option<ByteBuf>| value.map(|v| Bytes::from(v.into_vec()));
        Call {
            statement,
            types: self.types.into(),
            parameters: Parameters {
                values: self.values.into_iter().map(value).collect(),
                formats: Formats(self.formats),
            },
            formats: Formats(self.result_formats),
            context,
        }
    }
}

#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub enum LevelForm {
    Any,
    Bounded { milliseconds: u64 },
    Session,
    Linearizable,
    Primary,
}

/// A level, and the token of it as text.
fn level_form(level: Level) -> (LevelForm, Option<String>) {
    match level {
        Level::Any => (LevelForm::Any, None),
        Level::Bounded(age) => (LevelForm::Bounded { milliseconds: age.as_millis() as u64 }, None),
        Level::Session(token) => (LevelForm::Session, token.map(|token| token.to_string())),
        Level::Linearizable => (LevelForm::Linearizable, None),
        Level::Primary => (LevelForm::Primary, None),
    }
}

fn level(form: LevelForm, token: Option<&str>) -> Option<Level> {
    Some(match form {
        LevelForm::Any => Level::Any,
        LevelForm::Bounded { milliseconds } => Level::Bounded(Duration::from_millis(milliseconds)),
        LevelForm::Session => Level::Session(token.map(|token| token.parse()).transpose().ok()?),
        LevelForm::Linearizable => Level::Linearizable,
        LevelForm::Primary => Level::Primary,
    })
}

#[derive(Debug, Serialize, Deserialize)]
pub enum OpenForm {
    Nothing,
    Snapshot { level: LevelForm, token: Option<String> },
    Writer { savepoints: u32, repeatable: bool },
}

impl From<Open> for OpenForm {
    fn from(open: Open) -> Self {
        match open {
            Open::Nothing => OpenForm::Nothing,
            Open::Snapshot(level) => {
                let (level, token) = level_form(level);
                OpenForm::Snapshot { level, token }
            }
            Open::Writer { savepoints, repeatable } => {
                OpenForm::Writer { savepoints: savepoints as u32, repeatable }
            }
        }
    }
}

fn open(form: &OpenForm) -> Option<Open> {
    Some(match form {
        OpenForm::Nothing => Open::Nothing,
        OpenForm::Snapshot { level: form, token } => {
            Open::Snapshot(level(*form, token.as_deref())?)
        }
        OpenForm::Writer { savepoints, repeatable } => {
            Open::Writer { savepoints: *savepoints as usize, repeatable: *repeatable }
        }
    })
}

/// An operation. The data of COPY travels in frames of its own.
#[derive(Debug, Serialize, Deserialize)]
pub enum Request {
    Describe { call: CallForm, level: LevelForm, token: Option<String> },
    Read { call: CallForm, level: LevelForm, token: Option<String> },
    Write { call: CallForm },
    Alone { call: CallForm },
    Run { call: CallForm, open: OpenForm },
    Savepoint { number: u32 },
    Release { number: u32 },
    RollbackTo { number: u32 },
    CopyIn { call: CallForm, open: OpenForm },
    CopyDone,
    Commit,
    Rollback,
}

impl Request {
    pub fn new(operation: &Operation, known: &mut CallForms) -> Self {
        match operation {
            Operation::Describe { call, level } => {
                let (level, token) = level_form(*level);
                Request::Describe { call: CallForm::new(call, known), level, token }
            }
            Operation::Read { call, level } => {
                let (level, token) = level_form(*level);
                Request::Read { call: CallForm::new(call, known), level, token }
            }
            Operation::Write(call) => Request::Write { call: CallForm::new(call, known) },
            Operation::Alone(call) => Request::Alone { call: CallForm::new(call, known) },
            Operation::Run { call, open } => {
                Request::Run { call: CallForm::new(call, known), open: (*open).into() }
            }
            Operation::Savepoint(number) => Request::Savepoint { number: *number as u32 },
            Operation::Release(number) => Request::Release { number: *number as u32 },
            Operation::RollbackTo(number) => Request::RollbackTo { number: *number as u32 },
            Operation::CopyIn { call, open } => {
                Request::CopyIn { call: CallForm::new(call, known), open: (*open).into() }
            }
            Operation::CopyDone | Operation::CopyData(_) => Request::CopyDone,
            Operation::Commit => Request::Commit,
            Operation::Rollback => Request::Rollback,
        }
    }

    pub fn encode(&self) -> Result<Vec<u8>, rmp_serde::encode::Error> {
        rmp_serde::to_vec_named(self)
    }

    pub fn decode(bytes: &[u8]) -> Option<Self> {
        rmp_serde::from_slice(bytes).ok()
    }

    /// The operation again; `call` makes a call whole. `None` for what no node of
    /// any version sends.
    pub fn into_operation<E>(
        self,
        mut call: impl FnMut(CallForm) -> Result<Arc<Call>, E>,
    ) -> Result<Option<Operation>, E> {
        Ok(Some(match self {
            Request::Describe { call: form, level: read, token } => {
                let Some(level) = level(read, token.as_deref()) else {
                    return Ok(None);
                };
                Operation::Describe { call: call(form)?, level }
            }
            Request::Read { call: form, level: read, token } => {
                let Some(level) = level(read, token.as_deref()) else {
                    return Ok(None);
                };
                Operation::Read { call: call(form)?, level }
            }
            Request::Write { call: form } => Operation::Write(call(form)?),
            Request::Alone { call: form } => Operation::Alone(call(form)?),
            Request::Run { call: form, open: opens } => {
                let Some(open) = open(&opens) else {
                    return Ok(None);
                };
                Operation::Run { call: call(form)?, open }
            }
            Request::CopyIn { call: form, open: opens } => {
                let Some(open) = open(&opens) else {
                    return Ok(None);
                };
                Operation::CopyIn { call: call(form)?, open }
            }
            Request::Savepoint { number } => Operation::Savepoint(number as usize),
            Request::Release { number } => Operation::Release(number as usize),
            Request::RollbackTo { number } => Operation::RollbackTo(number as usize),
            Request::CopyDone => Operation::CopyDone,
            Request::Commit => Operation::Commit,
            Request::Rollback => Operation::Rollback,
        }))
    }
}

#[derive(Serialize, Deserialize)]
struct ColumnForm {
    name: String,
    data_type: TypeUse,
    table_oid: u32,
    column_number: i16,
    format: i16,
}

impl From<&ResultColumn> for ColumnForm {
    fn from(column: &ResultColumn) -> Self {
        Self {
            name: column.name.clone(),
            data_type: column.data_type.clone(),
            table_oid: column.table_oid,
            column_number: column.column_number,
            format: column.format,
        }
    }
}

impl From<ColumnForm> for ResultColumn {
    fn from(form: ColumnForm) -> Self {
        Self {
            name: form.name,
            data_type: form.data_type,
            table_oid: form.table_oid,
            column_number: form.column_number,
            format: form.format,
        }
    }
}

#[derive(Serialize, Deserialize)]
pub struct ErrorForm {
    state: String,
    message: String,
    detail: Option<String>,
    hint: Option<String>,
    position: Option<u32>,
    table: Option<String>,
    column: Option<String>,
    constraint: Option<String>,
}

impl From<&SqlError> for ErrorForm {
    fn from(error: &SqlError) -> Self {
        Self {
            state: error.state.0.to_owned(),
            message: error.message.clone(),
            detail: error.detail.clone(),
            hint: error.hint.clone(),
            position: error.position,
            table: error.table.clone(),
            column: error.column.clone(),
            constraint: error.constraint.clone(),
        }
    }
}

impl From<ErrorForm> for Box<SqlError> {
    fn from(form: ErrorForm) -> Self {
        Box::new(SqlError {
            state: SqlState::named(&form.state),
            message: form.message,
            detail: form.detail,
            hint: form.hint,
            position: form.position,
            table: form.table,
            column: form.column,
            constraint: form.constraint,
        })
    }
}

#[derive(Serialize, Deserialize)]
pub enum FailureForm {
    Sql { error: ErrorForm },
    NotDone { why: ErrorForm, primary: Option<NodeId> },
    TooFarBehind,
    WrongGeneration { error: ErrorForm },
    Unknown { error: ErrorForm },
}

impl From<&Failure> for FailureForm {
    fn from(failure: &Failure) -> Self {
        match failure {
            Failure::Sql(error) => FailureForm::Sql { error: (&**error).into() },
            Failure::NotDone { why, primary } => {
                FailureForm::NotDone { why: (&**why).into(), primary: *primary }
            }
            Failure::TooFarBehind => FailureForm::TooFarBehind,
            Failure::WrongGeneration(error) => {
                FailureForm::WrongGeneration { error: (&**error).into() }
            }
            Failure::Unknown(error) => FailureForm::Unknown { error: (&**error).into() },
        }
    }
}

impl From<FailureForm> for Failure {
    fn from(form: FailureForm) -> Self {
        match form {
            FailureForm::Sql { error } => Failure::Sql(error.into()),
            FailureForm::NotDone { why, primary } => Failure::NotDone { why: why.into(), primary },
            FailureForm::TooFarBehind => Failure::TooFarBehind,
            FailureForm::WrongGeneration { error } => Failure::WrongGeneration(error.into()),
            FailureForm::Unknown { error } => Failure::Unknown(error.into()),
        }
    }
}

#[derive(Serialize, Deserialize)]
struct DescriptionForm {
    parameters: Vec<PgType>,
    columns: Vec<ColumnForm>,
}

/// What came of an operation, after its rows.
#[derive(Default, Serialize, Deserialize)]
pub struct AnswerForm {
    pub has_transaction: bool,
    failure: Option<FailureForm>,
    tag: String,
    rows: u64,
    suspended: bool,
    settings: Vec<(String, String, bool)>,
    sequence_values: Vec<(String, i64)>,
    columns: Option<Vec<ColumnForm>>,
    /// How many messages the rows are.
    messages: u64,
    description: Option<DescriptionForm>,
    token: Option<String>,
}

impl AnswerForm {
    pub fn new(done: &Result<Answer, Failure>, has_transaction: bool) -> Self {
        let answer = match done {
            Ok(answer) => answer,
            Err(failure) => {
                return Self { has_transaction, failure: Some(failure.into()), ..Self::default() };
            }
        };
        let columns = |columns: &[ResultColumn]| columns.iter().map(ColumnForm::from).collect();
        Self {
            has_transaction,
            failure: None,
            tag: answer.complete.tag.clone(),
            rows: answer.complete.rows,
            suspended: answer.complete.suspended,
            settings: answer.complete.effects.settings.clone(),
            sequence_values: answer.complete.effects.sequence_values.clone(),
            columns: answer.rows.has_columns.then(|| columns(&answer.rows.columns)),
            messages: answer.rows.count(),
            description: answer.description.as_ref().map(|description| DescriptionForm {
                parameters: description.parameters.clone(),
                columns: columns(&description.columns),
            }),
            token: answer.token.map(|token| token.to_string()),
        }
    }

    pub fn encode(&self) -> Result<Vec<u8>, rmp_serde::encode::Error> {
        rmp_serde::to_vec_named(self)
    }

    pub fn decode(bytes: &[u8]) -> Option<Self> {
        rmp_serde::from_slice(bytes).ok()
    }

    /// The answer again, with the rows that came before it.
    pub fn into_answer(self, mut rows: Rows) -> Result<Answer, Failure> {
        if let Some(failure) = self.failure {
            return Err(failure.into());
        }
        let columns = |forms: Vec<ColumnForm>| forms.into_iter().map(ResultColumn::from).collect();
        rows.has_columns = self.columns.is_some();
        rows.columns = self.columns.map(columns).unwrap_or_default();
        rows.set_count(self.messages);
        Ok(Answer {
            complete: Complete {
                tag: self.tag,
                rows: self.rows,
                suspended: self.suspended,
                effects: Effects { settings: self.settings, sequence_values: self.sequence_values },
            },
            rows,
            description: self.description.map(|form| Description {
                parameters: form.parameters,
                columns: form.columns.into_iter().map(ResultColumn::from).collect(),
            }),
            token: self.token.and_then(|token| token.parse().ok()),
        })
    }
}

/// Reads bytes as everything that travels in frames.
pub fn parse_any(bytes: &[u8]) {
    let body = Bytes::copy_from_slice(bytes);
    if let Some((left, rest)) = split_deadline(&body) {
        assert!(left <= Duration::from_secs(7 * 86_400) && rest.len() + 8 == bytes.len());
    }
    if let Some(header) = Header::decode(bytes) {
        assert!(Header::decode(&header.encode()).is_some());
    }
    if let Some(request) = Request::decode(bytes) {
        let again = request.encode().unwrap_or_default();
        assert!(Request::decode(&again).is_some());
        let mut known = CallForms::default();
        let whole = request.into_operation(|form| {
            let context = known.context(&form, "app").ok_or(())?;
            let statement = rung_sql::parse(form.text()).map_err(|_| ())?.pop().ok_or(())?;
            Ok::<_, ()>(Arc::new(form.into_call(statement, context)))
        });
        if let Ok(Some(operation)) = whole {
            // Copies of data travel by themselves.
            let again = Request::new(&operation, &mut CallForms::default());
            assert!(again.encode().is_ok_and(|again| Request::decode(&again).is_some()));
        }
    }
    if let Some(answer) = AnswerForm::decode(bytes) {
        let again = answer.encode().unwrap_or_default();
        assert!(AnswerForm::decode(&again).is_some());
        if let Some(failure) = answer.failure {
            let _ = FailureForm::from(&Failure::from(failure));
        }
    }
}
