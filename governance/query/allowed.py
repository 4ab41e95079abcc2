"""The allow-list of queries: everything else is refused, also what later releases of DuckDB add.

Left out on purpose: table functions, ``query`` and similar ones, settings and variables, files, catalogues, macros,
lambdas, ``COLUMNS``, recursion, lists and structs, functions that repeat or generate (``repeat``, ``range``,
``unnest``), regular expressions, ``error``, randomness.
"""

from __future__ import annotations

from sqlglot import exp

STATEMENTS = (exp.Select, exp.SetOperation, exp.Subquery)

STRUCTURE: frozenset[type[exp.Expr]] = frozenset(
    {
        exp.Alias, exp.Case, exp.Column, exp.CTE, exp.Distinct, exp.Except, exp.From, exp.Group, exp.Having,
        exp.Identifier, exp.If, exp.Intersect, exp.Join, exp.Limit, exp.Offset, exp.Order, exp.Ordered, exp.Qualify,
        exp.Select, exp.Star, exp.Subquery, exp.Table, exp.TableAlias, exp.Union, exp.Where, exp.Window,
        exp.WindowSpec, exp.With, exp.Filter, exp.WithinGroup, exp.IgnoreNulls, exp.RespectNulls,
    }
)  # fmt: skip

OPERATORS: frozenset[type[exp.Expr]] = frozenset(
    {
        exp.Add, exp.And, exp.Between, exp.Cast, exp.DataType, exp.DataTypeParam, exp.Div, exp.DPipe, exp.EQ,
        exp.Exists, exp.GT, exp.GTE, exp.ILike, exp.In, exp.IntDiv, exp.Interval, exp.Is, exp.Like, exp.LT, exp.LTE,
        exp.Mod, exp.Mul, exp.Neg, exp.NEQ, exp.Not, exp.NullSafeEQ, exp.NullSafeNEQ, exp.Or, exp.Paren, exp.Sub,
        exp.TryCast, exp.Tuple, exp.Var, exp.Boolean, exp.Literal, exp.Null,
    }
)  # fmt: skip

FUNCTIONS: frozenset[type[exp.Expr]] = frozenset(
    {
        exp.Abs, exp.AnyValue, exp.ApproxDistinct, exp.ArgMax, exp.ArgMin, exp.Avg, exp.Ceil, exp.Coalesce,
        exp.Corr, exp.Count, exp.CountIf, exp.CovarPop, exp.CovarSamp, exp.DateDiff, exp.DateTrunc, exp.Day,
        exp.DayOfWeek, exp.DayOfYear, exp.DenseRank, exp.Exp, exp.Extract, exp.First, exp.FirstValue, exp.Floor,
        exp.Greatest, exp.Hex, exp.Hour, exp.IsNan, exp.Lag, exp.Last, exp.LastValue, exp.Lead, exp.Least,
        exp.Length, exp.Ln, exp.Log, exp.LogicalAnd, exp.LogicalOr, exp.Lower, exp.LowerHex, exp.Max,
        exp.Median, exp.Min, exp.Minute, exp.Mode, exp.Month, exp.Ntile, exp.Nullif, exp.PercentRank,
        exp.PercentileCont, exp.PercentileDisc, exp.Pow, exp.Quantile, exp.Quarter, exp.Rank, exp.Round,
        exp.RowNumber, exp.Second, exp.Sign, exp.Sqrt, exp.StartsWith, exp.Stddev, exp.StddevPop,
        exp.StddevSamp, exp.Substring, exp.Sum, exp.TimeToUnix, exp.TimestampTrunc, exp.Trim, exp.Upper,
        exp.Variance, exp.VariancePop, exp.Week, exp.Year,
    }
)  # fmt: skip

NODES = STRUCTURE | OPERATORS | FUNCTIONS

PLAIN_FUNCTIONS = frozenset({"now", "epoch_us", "isfinite"})
"""Functions that sqlglot has no class for; they are checked by name."""

MOMENT = (
    exp.Add, exp.Anonymous, exp.Cast, exp.DataType, exp.Interval, exp.Literal, exp.Paren, exp.Sub, exp.Var,
)  # fmt: skip
"""What the moment of ``<dataset>_as_known_at`` may use: constants only, no column."""

TYPES = frozenset(
    {
        exp.DType.BIGINT, exp.DType.BOOLEAN, exp.DType.DATE, exp.DType.DECIMAL, exp.DType.DOUBLE, exp.DType.FLOAT,
        exp.DType.INT, exp.DType.SMALLINT, exp.DType.TEXT, exp.DType.TIMESTAMP, exp.DType.TIMESTAMPNTZ,
        exp.DType.TIMESTAMPTZ, exp.DType.VARCHAR, exp.DType.INTERVAL,
    }
)  # fmt: skip

UNITS = frozenset(
    f"{unit}{plural}"
    for unit in (
        "SECOND", "MINUTE", "HOUR", "DAY", "WEEK", "MONTH", "QUARTER", "YEAR", "EPOCH", "DOW", "DOY", "ISODOW",
        "DAYOFWEEK", "DAYOFYEAR",
    )
    for plural in ("", "S")
)  # fmt: skip

WORDS = UNITS | frozenset(
    {
        "INNER", "CROSS", "LEFT", "RIGHT", "FULL", "OUTER", "SEMI", "ANTI", "OVER", "ROWS", "RANGE", "UNBOUNDED",
        "PRECEDING", "FOLLOWING", "CURRENT ROW", "LEADING", "TRAILING", "BOTH",
    }
)  # fmt: skip
"""All bare words that may stand as text in a node: the generator writes such text out unchanged."""

NAME = r"[A-Za-z_][A-Za-z0-9_]{0,62}"
MOST_CHARACTERS = 20_000
MOST_TOKENS = 3_000
MOST_DEPTH = 40
"""The deepest nesting of brackets. sqlglot's parser and generator recurse once for each."""
