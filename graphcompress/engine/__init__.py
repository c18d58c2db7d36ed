"""Rewrite rules as data: files in, matches out, applied until nothing changes."""

from graphcompress.engine.driver import RewriteResult, Stop, rewrite
from graphcompress.engine.rulefile import Example, Rule, load_rule, load_rules, rule_ids
from graphcompress.engine.rulereader import rule_files

__all__ = ["Example", "RewriteResult", "Rule", "Stop", "load_rule", "load_rules", "rewrite", "rule_files", "rule_ids"]
