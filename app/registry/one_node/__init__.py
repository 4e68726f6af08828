"""What only one PostgreSQL can do.

That is to lock several rows in an order, to skip those that are locked, to claim names by advisory
locks within a statement, and to keep one plan for all values. Each statement that does so is here,
and bears ONE_NODE, a comment; the tests refuse it anywhere else. Every other statement is spelled
so that a distributed PostgreSQL (Citus) can plan it too.
"""

ONE_NODE = "/* one node */"

# For connections that register. Their statements have one good plan, through the indexes, for one
# row and for a hundred. Left to itself PostgreSQL plans again for each lone registration, and a
# plan made while the tables were empty would read them whole.
# Up to PostgreSQL 17 switched off means dear, and what is dear is compiled (JIT) each time.
SESSION_SETTINGS = {
    "jit": "off",
    "plan_cache_mode": "force_generic_plan",
    "enable_seqscan": "off",
}
