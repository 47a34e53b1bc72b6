//! The catalogs' rows of a whole database as text.
//!
//! Whole rows, so that what a newer version adds to them is compared without being known here; less
//! what differs without meaning anything (object ids, files, statistics, hints like `relhasindex`,
//! numbers of columns, where dropped ones count), plus names for what they refer to by id.

/// `kept`, the relations that are told of, and `gone`, the objects that are not: of the system, of
/// extensions, of our schema, of the retired tables in `$1`.
pub const EXCLUDED: &str = "
  WITH foreign_to_us AS (
    SELECT oid FROM pg_namespace WHERE nspname ~ '^pg_' OR nspname IN ('information_schema', 'pgwraith')),
  member AS (SELECT classid, objid FROM pg_depend WHERE deptype = 'e'),
  retired AS (SELECT to_regclass(t)::oid AS oid FROM unnest($1::text[]) t WHERE to_regclass(t) IS NOT NULL),
  with_retired AS (
    SELECT oid FROM retired
    UNION ALL SELECT indexrelid FROM pg_index JOIN retired ON indrelid = retired.oid
    UNION ALL SELECT objid FROM pg_depend JOIN retired ON refobjid = retired.oid
      WHERE classid = 'pg_class'::regclass AND refclassid = 'pg_class'::regclass AND refobjsubid <> 0
        AND deptype = 'i' AND objid IN (SELECT seqrelid FROM pg_sequence)),
  kept AS (
    SELECT oid FROM pg_class WHERE relnamespace NOT IN (SELECT oid FROM foreign_to_us)
      AND oid NOT IN (SELECT oid FROM with_retired)
      AND oid NOT IN (SELECT objid FROM member WHERE classid = 'pg_class'::regclass)),
  kept_type AS (
    SELECT t.oid FROM pg_type t LEFT JOIN pg_type e ON e.oid = t.typelem AND e.typarray = t.oid
    WHERE t.typnamespace NOT IN (SELECT oid FROM foreign_to_us)
      AND t.oid NOT IN (SELECT objid FROM member WHERE classid = 'pg_type'::regclass)
      AND coalesce(e.typrelid, t.typrelid) IN (SELECT oid FROM kept UNION ALL SELECT 0)),
  gone AS (
    SELECT 'pg_class'::regclass::oid AS classid, oid AS objid FROM pg_class WHERE oid NOT IN (SELECT oid FROM kept)
    UNION ALL SELECT 'pg_type'::regclass, oid FROM pg_type WHERE oid NOT IN (SELECT oid FROM kept_type)
    UNION ALL SELECT 'pg_constraint'::regclass, oid FROM pg_constraint WHERE conrelid NOT IN (SELECT oid FROM kept UNION ALL SELECT 0)
    UNION ALL SELECT 'pg_trigger'::regclass, oid FROM pg_trigger WHERE tgrelid NOT IN (SELECT oid FROM kept)
    UNION ALL SELECT 'pg_rewrite'::regclass, oid FROM pg_rewrite WHERE ev_class NOT IN (SELECT oid FROM kept)
    UNION ALL SELECT 'pg_policy'::regclass, oid FROM pg_policy WHERE polrelid NOT IN (SELECT oid FROM kept)
    UNION ALL SELECT 'pg_attrdef'::regclass, oid FROM pg_attrdef WHERE adrelid NOT IN (SELECT oid FROM kept)
    UNION ALL SELECT 'pg_statistic_ext'::regclass, oid FROM pg_statistic_ext WHERE stxrelid NOT IN (SELECT oid FROM kept)
    UNION ALL SELECT 'pg_publication_rel'::regclass, oid FROM pg_publication_rel WHERE prrelid NOT IN (SELECT oid FROM kept)
    UNION ALL SELECT 'pg_proc'::regclass, oid FROM pg_proc WHERE pronamespace IN (SELECT oid FROM foreign_to_us)
    UNION ALL SELECT 'pg_namespace'::regclass, oid FROM foreign_to_us
    UNION ALL SELECT classid, objid FROM member)";

/// Each kind of line and the query for it.
pub const QUERIES: &[(&str, &str)] = &[
    (
        "relation",
        "SELECT concat_ws(' ', c.oid::regclass, c.relowner::regrole, s.spcname, m.amname, nullif(c.reloftype, 0)::regtype,
           (SELECT array_agg(acl ORDER BY acl) FROM unnest(coalesce(c.relacl,
              acldefault(CASE c.relkind WHEN 'S' THEN 's'::\"char\" ELSE 'r' END, c.relowner))::text[]) acl),
           'toast', x.reloptions, pg_get_expr(c.relpartbound, c.oid), pg_get_partkeydef(c.oid),
           to_jsonb(c) - '{oid,relname,relnamespace,relowner,relacl,reltablespace,relfilenode,reltype,reloftype,reltoastrelid,
             relnatts,relpages,reltuples,relallvisible,relallfrozen,relfrozenxid,relminmxid,relhastriggers,relhasindex,
             relhasrules,relhassubclass,relam,relrewrite,relpartbound}'::text[])
         FROM pg_class c JOIN kept USING (oid) LEFT JOIN pg_tablespace s ON s.oid = c.reltablespace
         LEFT JOIN pg_am m ON m.oid = c.relam LEFT JOIN pg_class x ON x.oid = c.reltoastrelid",
    ),
    // A column of an index is known by its place: its name may be an old one of the table's column.
    (
        "column",
        "SELECT concat_ws(' ', a.attrelid::regclass, row_number() OVER (PARTITION BY a.attrelid ORDER BY a.attnum),
           CASE WHEN c.relkind NOT IN ('i', 'I') THEN quote_ident(a.attname) END, format_type(a.atttypid, a.atttypmod),
           a.attcollation::regcollation, 'default', pg_get_expr(d.adbin, d.adrelid),
           (SELECT array_agg(acl ORDER BY acl) FROM unnest(a.attacl::text[]) acl),
           to_jsonb(a) - '{attrelid,attname,attnum,atttypid,atttypmod,attcollation,attacl,atthasmissing,attmissingval,attcacheoff}'::text[])
         FROM pg_attribute a JOIN kept ON kept.oid = a.attrelid JOIN pg_class c ON c.oid = a.attrelid
         LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
         WHERE a.attnum > 0 AND NOT a.attisdropped AND c.relkind <> 'S'",
    ),
    (
        "constraint",
        "SELECT concat_ws(' ', quote_ident(k.conname), 'on', nullif(k.conrelid, 0)::regclass, nullif(k.contypid, 0)::regtype,
           pg_get_constraintdef(k.oid), k.connamespace::regnamespace, 'by', nullif(k.conindid, 0)::regclass,
           (SELECT array_agg(a.attname ORDER BY n) FROM unnest(k.conkey) WITH ORDINALITY u(k, n)
              JOIN pg_attribute a ON a.attrelid = k.conrelid AND a.attnum = u.k),
           nullif(k.confrelid, 0)::regclass,
           (SELECT array_agg(a.attname ORDER BY n) FROM unnest(k.confkey) WITH ORDINALITY u(k, n)
              JOIN pg_attribute a ON a.attrelid = k.confrelid AND a.attnum = u.k),
           k.conpfeqop::regoperator[], k.conppeqop::regoperator[], k.conffeqop::regoperator[], k.conexclop::regoperator[],
           to_jsonb(k) - '{oid,conname,conrelid,contypid,connamespace,conindid,conparentid,confrelid,conkey,confkey,confdelsetcols,
             conbin,conpfeqop,conppeqop,conffeqop,conexclop}'::text[])
         FROM pg_constraint k
         WHERE k.conrelid IN (SELECT oid FROM kept) OR k.contypid IN (SELECT oid FROM kept_type)",
    ),
    (
        "index",
        "SELECT concat_ws(' ', pg_get_indexdef(i.indexrelid),
           (SELECT array_agg(o.opcname ORDER BY n) FROM unnest(i.indclass) WITH ORDINALITY u(o, n) JOIN pg_opclass o ON o.oid = u.o),
           to_jsonb(i) - '{indexrelid,indrelid,indkey,indclass,indcollation,indexprs,indpred,indcheckxmin}'::text[])
         FROM pg_index i JOIN kept ON kept.oid = i.indexrelid",
    ),
    (
        "sequence",
        "SELECT concat_ws(' ', s.seqrelid::regclass, s.seqtypid::regtype, to_jsonb(s) - '{seqrelid,seqtypid}'::text[])
         FROM pg_sequence s JOIN kept ON kept.oid = s.seqrelid",
    ),
    (
        "trigger",
        "SELECT concat_ws(' ', pg_get_triggerdef(g.oid), to_jsonb(g) - '{oid,tgrelid,tgparentid,tgfoid,tgconstrrelid,tgconstrindid,
           tgconstraint,tgattr,tgqual}'::text[])
         FROM pg_trigger g JOIN kept ON kept.oid = g.tgrelid WHERE NOT g.tgisinternal",
    ),
    (
        "constraint's trigger",
        "SELECT concat_ws(' ', g.tgrelid::regclass, g.tgfoid::regproc, 'of', quote_ident(k.conname), k.conrelid::regclass,
           nullif(g.tgconstrrelid, 0)::regclass, nullif(g.tgconstrindid, 0)::regclass,
           to_jsonb(g) - '{oid,tgname,tgrelid,tgparentid,tgfoid,tgconstrrelid,tgconstrindid,tgconstraint,tgattr,tgqual}'::text[])
         FROM pg_trigger g JOIN kept ON kept.oid = g.tgrelid LEFT JOIN pg_constraint k ON k.oid = g.tgconstraint
         WHERE g.tgisinternal",
    ),
    (
        "view",
        "SELECT concat_ws(' ', c.oid::regclass, pg_get_viewdef(c.oid)) FROM pg_class c JOIN kept USING (oid)
         WHERE c.relkind IN ('v', 'm')",
    ),
    (
        "rule",
        "SELECT concat_ws(' ', pg_get_ruledef(r.oid), to_jsonb(r) - '{oid,ev_class,ev_qual,ev_action}'::text[])
         FROM pg_rewrite r JOIN kept ON kept.oid = r.ev_class",
    ),
    (
        "policy",
        "SELECT concat_ws(' ', p.polrelid::regclass, quote_ident(p.polname), 'to',
           (SELECT array_agg(CASE r WHEN 0 THEN 'public' ELSE r::regrole::text END ORDER BY r) FROM unnest(p.polroles) r),
           'using', pg_get_expr(p.polqual, p.polrelid), 'check', pg_get_expr(p.polwithcheck, p.polrelid),
           to_jsonb(p) - '{oid,polname,polrelid,polroles,polqual,polwithcheck}'::text[])
         FROM pg_policy p JOIN kept ON kept.oid = p.polrelid",
    ),
    (
        "statistics",
        "SELECT concat_ws(' ', pg_get_statisticsobjdef(s.oid), s.stxowner::regrole, pg_get_statisticsobjdef_columns(s.oid),
           to_jsonb(s) - '{oid,stxrelid,stxname,stxnamespace,stxowner,stxkeys,stxexprs}'::text[])
         FROM pg_statistic_ext s JOIN kept ON kept.oid = s.stxrelid",
    ),
    (
        "publication",
        "SELECT concat_ws(' ', p.pubname, p.pubowner::regrole, to_jsonb(p) - '{oid,pubname,pubowner}'::text[],
           'schemas', (SELECT array_agg(n.pnnspid::regnamespace ORDER BY n.pnnspid::regnamespace::text) FROM pg_publication_namespace n WHERE n.pnpubid = p.oid))
         FROM pg_publication p",
    ),
    (
        "published",
        "SELECT concat_ws(' ', p.pubname, r.prrelid::regclass, 'columns',
           (SELECT array_agg(a.attname ORDER BY a.attnum) FROM pg_attribute a
            WHERE a.attrelid = r.prrelid AND a.attnum = ANY (r.prattrs::int2[])),
           'where', pg_get_expr(r.prqual, r.prrelid), to_jsonb(r) - '{oid,prpubid,prrelid,prqual,prattrs}'::text[])
         FROM pg_publication_rel r JOIN pg_publication p ON p.oid = r.prpubid JOIN kept ON kept.oid = r.prrelid",
    ),
    (
        "function",
        "SELECT concat_ws(' ', CASE WHEN prokind <> 'a' THEN pg_get_functiondef(p.oid) ELSE p.oid::regprocedure::text END,
           proowner::regrole, (SELECT array_agg(acl ORDER BY acl) FROM unnest(coalesce(proacl, acldefault('f', proowner))::text[]) acl))
         FROM pg_proc p WHERE p.oid >= 16384
           AND p.oid NOT IN (SELECT objid FROM gone WHERE classid = 'pg_proc'::regclass)",
    ),
    (
        "type",
        "SELECT concat_ws(' ', t.oid::regtype, t.typowner::regrole, t.typtype, t.typbasetype::regtype, t.typnotnull, t.typdefault,
           t.typcollation::regcollation,
           (SELECT array_agg(acl ORDER BY acl) FROM unnest(coalesce(t.typacl, acldefault('T', t.typowner))::text[]) acl),
           (SELECT array_agg(e.enumlabel ORDER BY e.enumsortorder) FROM pg_enum e WHERE e.enumtypid = t.oid))
         FROM pg_type t JOIN kept_type USING (oid)",
    ),
    (
        "schema",
        "SELECT concat_ws(' ', nspname, nspowner::regrole,
           (SELECT array_agg(acl ORDER BY acl) FROM unnest(coalesce(nspacl, acldefault('n', nspowner))::text[]) acl))
         FROM pg_namespace WHERE oid NOT IN (SELECT oid FROM foreign_to_us)",
    ),
    (
        "default privileges",
        "SELECT concat_ws(' ', defaclrole::regrole, nullif(defaclnamespace, 0)::regnamespace, defaclobjtype, defaclacl) FROM pg_default_acl",
    ),
    (
        "event trigger",
        "SELECT concat_ws(' ', evtfoid::regproc, evtowner::regrole, to_jsonb(e) - '{oid,evtfoid,evtowner}'::text[]) FROM pg_event_trigger e",
    ),
    (
        "comment",
        "SELECT concat_ws(' ', o.type, o.identity, quote_literal(d.description))
         FROM pg_description d, pg_identify_object(d.classoid, d.objoid, d.objsubid) o
         WHERE d.objoid >= 16384 AND (d.classoid, d.objoid) NOT IN (SELECT classid, objid FROM gone)",
    ),
    (
        "security label",
        "SELECT concat_ws(' ', o.type, o.identity, l.provider, l.label)
         FROM pg_seclabel l, pg_identify_object(l.classoid, l.objoid, l.objsubid) o",
    ),
    (
        "inheritance",
        "SELECT concat_ws(' ', i.inhrelid::regclass, i.inhparent::regclass, i.inhseqno) FROM pg_inherits i
         WHERE i.inhrelid IN (SELECT oid FROM kept)",
    ),
    // What hangs on what, whatever kind it is of: what is not known here shows at least by this.
    (
        "dependence",
        "SELECT DISTINCT regexp_replace(concat_ws(' ', o.type, o.identity, d.deptype, r.type, r.identity), 'ConstraintTrigger_([ac]_)?\\d+', 'ConstraintTrigger \\1', 'g')
         FROM pg_depend d, pg_identify_object(d.classid, d.objid, d.objsubid) o, pg_identify_object(d.refclassid, d.refobjid, d.refobjsubid) r
         WHERE d.objid >= 16384 AND d.deptype <> 'e'
           AND (d.classid, d.objid) NOT IN (SELECT classid, objid FROM gone)",
    ),
];
