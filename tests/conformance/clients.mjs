// Which of the suite's client scenarios say something about a gateway, and what each of them needs.
//
// The gateway is the client of its upstream, so what concerns the wire (headers, `_meta`, versions, reconnecting, what
// becomes of schemas and states) is its own; how a user is asked, and what is filled in for him, is its client's.

/** Both revisions have it, unless it says otherwise. */
const WIRE = {
  initialize: { only: '2025-11-25' },
  tools_call: {},
  'sse-retry': { only: '2025-11-25' },
  // The values are filled in by our client; what is tested is that question and answer pass through whole.
  'elicitation-sep1034-client-defaults': { only: '2025-11-25' },
  'json-schema-2020-12-preservation': {},
  'request-metadata': { only: '2026-07-28' },
  'http-standard-headers': { only: '2026-07-28' },
  'http-custom-headers': { only: '2026-07-28' },
  'http-invalid-tool-headers': { only: '2026-07-28' },
  'sep-2322-client-request-state': { only: '2026-07-28' },
  'json-schema-ref-no-deref': { only: '2026-07-28' },
};

/** Those of `meanwhile login`: a server that wants a token, and an authorization server that gives one at once. */
const LOGIN = {
  'auth/metadata-default': {},
  'auth/metadata-var1': {},
  'auth/metadata-var2': {},
  'auth/metadata-var3': {},
  'auth/basic-cimd': {},
  'auth/scope-from-www-authenticate': {},
  'auth/scope-from-scopes-supported': {},
  'auth/scope-omitted-when-undefined': {},
  'auth/scope-step-up': {},
  'auth/scope-retry-limit': {},
  'auth/token-endpoint-auth-basic': {},
  'auth/token-endpoint-auth-post': {},
  'auth/token-endpoint-auth-none': {},
  'auth/pre-registration': {},
  'auth/resource-mismatch': { only: '2026-07-28' },
  'auth/offline-access-scope': { only: '2026-07-28' },
  'auth/offline-access-not-supported': { only: '2026-07-28' },
  'auth/authorization-server-migration': { only: '2026-07-28' },
  'auth/iss-supported': { only: '2026-07-28' },
  'auth/iss-not-advertised': { only: '2026-07-28' },
  'auth/iss-supported-missing': { only: '2026-07-28' },
  'auth/iss-wrong-issuer': { only: '2026-07-28' },
  'auth/iss-unexpected': { only: '2026-07-28' },
  'auth/iss-normalized': { only: '2026-07-28' },
  'auth/metadata-issuer-mismatch': { only: '2026-07-28' },
};

export function scenarios(requirements, login) {
  const all = Object.entries({ ...WIRE, ...(login ? LOGIN : {}) });
  return all.filter(([, { only = requirements }]) => only === requirements).map(([name]) => name);
}
