{{/* The collector's configuration.

     A batch is a trace of its own, joined to its members' traces by links, so a decision made by trace would tear them
     apart. What is kept together, over any number of collectors, because all of it carries the same mark:
       - failed, refused, retried and slow requests, those that a fallback answered, and their batches (headrace.keep, set by the gateway on both);
       - a share of ordinary batches, whole, with every member: by headrace.batch.id, a random number that `batch`, `dispatch`
         and each member's `execute` carry;
       - a share of shadow batches likewise, with the requests they were copied from.
     What is not: the other members of a batch that is kept for one of them; the payments' batch of a request that is kept for
     its copy, and the other way round. Requests that joined no batch and are not marked (callers that left early) go.
     No policy by latency: a copy for a comparison ends after its request and would make every compared trace a slow one. */}}
{{- define "headrace.collector.config" -}}
{{- $collector := .Values.telemetry.collector -}}
{{- $exporters := default (dict "debug" dict) $collector.exporters -}}
{{- $layered := gt (int $collector.replicas) 1 -}}
receivers:
  otlp:
    protocols:
      grpc: {endpoint: 0.0.0.0:4317}
  {{- if $layered }}
  otlp/peers:
    protocols:
      grpc: {endpoint: 0.0.0.0:4319}
  {{- end }}
processors:
  memory_limiter: {check_interval: 1s, limit_percentage: 80, spike_limit_percentage: 20}
  tail_sampling:
    # A request's spans arrive together when it is over, those of a copy up to a second later.
    decision_wait: 5s
    num_traces: 50000
    # More than num_traces: what comes late is decided as its trace was.
    decision_cache: {sampled_cache_size: 200000, non_sampled_cache_size: 200000}
    policies:
      - name: worth-keeping
        type: string_attribute
        string_attribute: {key: headrace.keep, values: [failed, refused, fallback, retried, slow]}
      # Of shadows too, which the gateway does not mark: a challenger that crashes.
      - name: errors
        type: status_code
        status_code: {status_codes: [ERROR]}
      - name: whole-batches
        type: ottl_condition
        ottl_condition:
          error_mode: ignore
          span:
            - {{ printf "attributes[\"headrace.path\"] != \"shadow\" and attributes[\"headrace.batch.id\"] < %q" (include "headrace.collector.below" $collector.keepPercentage) | squote }}
      - name: shadow-batches
        type: ottl_condition
        ottl_condition:
          error_mode: ignore
          span:
            - {{ printf "attributes[\"headrace.path\"] == \"shadow\" and attributes[\"headrace.batch.id\"] < %q" (include "headrace.collector.below" $collector.keepShadowPercentage) | squote }}
  batch: {send_batch_size: 2048, timeout: 1s}
exporters:
  {{- toYaml $exporters | nindent 2 }}
  {{- if $layered }}
  # All spans of a trace to one collector; while collectors come or go some traces are decided in two parts.
  loadbalancing:
    routing_key: traceID
    protocol:
      otlp:
        tls: {insecure: true}
    resolver:
      dns: {hostname: {{ include "headrace.fullname" . }}-collector-peers.{{ .Release.Namespace }}.svc, port: "4319"}
  {{- end }}
extensions:
  health_check: {endpoint: 0.0.0.0:13133}
service:
  extensions: [health_check]
  pipelines:
    {{- if $layered }}
    traces/by-trace:
      receivers: [otlp]
      processors: [memory_limiter]
      exporters: [loadbalancing]
    {{- end }}
    traces:
      receivers: [{{ ternary "otlp/peers" "otlp" $layered }}]
      processors: [memory_limiter, tail_sampling, batch]
      exporters: {{ keys $exporters | sortAlpha | toJson }}
  telemetry:
    logs: {encoding: json}
    metrics:
      readers:
        - pull: {exporter: {prometheus: {host: 0.0.0.0, port: 8888}}}
{{- end }}

{{/* Ids are sixteen random hexadecimal digits and compared as words: this share of them comes before the word. */}}
{{- define "headrace.collector.below" -}}
{{- if ge (float64 .) 100.0 }}g{{ else }}{{ printf "%06x" (int64 (mulf (float64 .) 167772.16)) }}{{ end -}}
{{- end }}
