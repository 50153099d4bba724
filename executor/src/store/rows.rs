//! Inserts of several rows in one statement: most of a statement's cost does not depend on the
//! number of its rows.

use rusqlite::types::ToSql;
use rusqlite::{Connection, Statement};

/// Rows of one statement, largest first; what remains goes one by one.
const SIZES: [usize; 3] = [16, 4, 1];

/// The texts of one insert for each size.
#[derive(Debug)]
pub(super) struct ManyRows {
    statements: [String; SIZES.len()],
}

impl ManyRows {
    /// `head` ends before `VALUES`; `row` is one row with its parentheses. With `OR ROLLBACK` (an
    /// error ends the whole batch in any case) SQLite need not copy each page for the undoing of this
    /// statement alone.
    pub(super) fn new(head: &str, row: &str) -> Self {
        Self { statements: SIZES.map(|size| format!("{head} VALUES {}", vec![row; size].join(","))) }
    }

    /// Inserts all rows in order; `bind` gives one row's parameters to the binder, left to right.
    pub(super) fn insert<T>(
        &self,
        connection: &Connection,
        mut rows: &[T],
        bind: impl Fn(&T, &mut Binder<'_, '_>) -> rusqlite::Result<()>,
    ) -> rusqlite::Result<()> {
        for (size, sql) in SIZES.into_iter().zip(&self.statements) {
            while rows.len() >= size {
                let (now, later) = rows.split_at(size);
                let mut statement = connection.prepare_cached(sql)?;
                let mut binder = Binder::new(&mut statement);
                for row in now {
                    bind(row, &mut binder)?;
                }
                statement.raw_execute()?;
                rows = later;
            }
        }
        Ok(())
    }
}

/// Gives a statement its parameters in order.
#[derive(Debug)]
pub(super) struct Binder<'a, 'c> {
    statement: &'a mut Statement<'c>,
    index: usize,
}

impl<'a, 'c> Binder<'a, 'c> {
    pub(super) fn new(statement: &'a mut Statement<'c>) -> Self {
        Self { statement, index: 0 }
    }

    pub(super) fn push(&mut self, value: impl ToSql) -> rusqlite::Result<()> {
        self.index += 1;
        self.statement.raw_bind_parameter(self.index, value)
    }
}
