{{/* headrace.yaml: what the chart sets, over what the user's `settings` say. One tree, for gateways, control and replicas. */}}

{{- define "headrace.settings" -}}
{{ toYaml (mustMergeOverwrite (deepCopy .Values.settings) (fromYaml (include "headrace.settings.own" .))) }}
{{- end }}

{{/* What follows from other values, and is refused in `settings` (validate.yaml). */}}
{{- define "headrace.settings.own" -}}
gateway:
  host: 0.0.0.0
  port: {{ int64 .Values.gateway.port }}
  metrics_port: {{ int64 .Values.gateway.metricsPort }}
  health_port: {{ include "headrace.gateway.healthPort" . }}
  drain_s: {{ int64 .Values.gateway.drainSeconds }}
  max_connection_age_s: {{ int64 .Values.gateway.maxConnectionAgeSeconds }}
  {{- if .Values.gateway.autoscaling.keda.enabled }}
  peers: ["{{ include "headrace.fullname" . }}-headless.{{ .Release.Namespace }}.svc:{{ int64 .Values.gateway.metricsPort }}"]
  {{- end }}
control:
  host: 0.0.0.0
  port: {{ int64 .Values.control.port }}
  metrics_port: {{ int64 .Values.control.metricsPort }}
  health_port: {{ include "headrace.control.healthPort" . }}
  ledger: /var/lib/headrace/ledger.db
  model_control: none  # serveConfigV2 says what is served
replica:
  host: 0.0.0.0
  service: {{ include "headrace.fullname" . | quote }}  # the RayService: of its Ray clusters a later one takes over from an earlier
  ports: [{{ int64 .Values.ray.replicaPorts.first }}, {{ int64 .Values.ray.replicaPorts.last }}]
  shutdown_s: {{ int64 .Values.ray.gracefulShutdownSeconds }}
  surge_percent: {{ int64 .Values.ray.maxSurgePercent }}
telemetry:
  otlp_endpoint: {{ include "headrace.otlpEndpoint" . | quote }}
  sampling: {{ .Values.telemetry.sampling }}
  trace_dir: /tmp/traces
  {{- if .Values.telemetry.collector.enabled }}
  slow_ms: {{ int64 .Values.telemetry.collector.slowMilliseconds }}  # the collector keeps what gateways mark
  {{- end }}
{{- if .Values.tls.secretName }}
tls:
  certificate: /etc/headrace/tls/tls.crt
  key: /etc/headrace/tls/tls.key
  authorities: /etc/headrace/tls/ca.crt
  name: {{ .Values.tls.name | quote }}
  require_client_certificate: {{ .Values.tls.requireClientCertificate }}
{{- end }}
access:
  {{- include "headrace.settings.access" . | nindent 2 }}
models:
  {{- include "headrace.settings.models" . | nindent 2 }}
{{- end }}

{{/*
Who is known. Nothing said: everybody whom the network policies let in. Said: our own processes are one more of the
callers, if need be the only one, by the name in their certificate, last, so that whoever describes them better comes first.
*/}}
{{- define "headrace.settings.access" -}}
{{- $access := deepCopy (default (dict "mode" "open") .Values.settings.access) -}}
{{- if and .Values.tls.secretName (or $access.callers (ne "open" (default "auto" $access.mode))) -}}
{{- $may := ternary (list "gateway" "replica" "infer") (list "gateway" "replica") (not (empty (include "headrace.tested" .))) -}}
{{- $ours := dict "name" "ours" "certificate" .Values.tls.name "may" $may -}}
{{- $_ := set $access "callers" (append (default (list) $access.callers) $ours) -}}
{{- end -}}
{{ toYaml $access }}
{{- end }}

{{/* Name → what gateways and control read of its section; versions share it. The rest goes with each version to its replicas. */}}
{{- define "headrace.settings.models" -}}
{{- $models := dict -}}
{{- range .Values.models -}}
{{- $shared := pick (default (dict) .settings) "batching" "primary_version" "traffic" "fallback" -}}
{{- $_ := set $models .name (merge (default (dict) (get $models .name)) $shared) -}}
{{- end -}}
{{ toYaml $models }}
{{- end }}

{{/* The kubelet speaks no TLS before Kubernetes 1.37: where the ports do, health has one of its own. 0 = none. */}}
{{- define "headrace.gateway.healthPort" -}}
{{ ternary (int64 .Values.gateway.healthPort) 0 (not (empty .Values.tls.secretName)) }}
{{- end }}

{{- define "headrace.control.healthPort" -}}
{{ ternary (int64 .Values.control.healthPort) 0 (not (empty .Values.tls.secretName)) }}
{{- end }}

{{/* Where spans go; empty: files. */}}
{{- define "headrace.otlpEndpoint" -}}
{{- if .Values.telemetry.otlpEndpoint -}}
{{ .Values.telemetry.otlpEndpoint }}
{{- else if .Values.telemetry.collector.enabled -}}
http://{{ include "headrace.fullname" . }}-collector.{{ .Release.Namespace }}.svc:4317
{{- end -}}
{{- end }}

{{/* How many gateways there are at the least. */}}
{{- define "headrace.gateway.least" -}}
{{- $scaled := .Values.gateway.autoscaling -}}
{{- if $scaled.hpa.enabled -}}
{{ int64 $scaled.hpa.minReplicas }}
{{- else if $scaled.keda.enabled -}}
{{ int64 $scaled.keda.minReplicas }}
{{- else -}}
{{ int64 .Values.gateway.replicas }}
{{- end -}}
{{- end }}

{{/* Not empty where `helm test` has a model to ask. */}}
{{- define "headrace.tested" -}}
{{- range .Values.models -}}
{{- if and $.Values.tests.enabled (eq .name $.Values.tests.model) }}yes{{ end -}}
{{- end -}}
{{- end }}
