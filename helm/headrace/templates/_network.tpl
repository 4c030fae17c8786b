{{/* Who may talk to whom: peers of the network policies. */}}

{{/* Every pod of these namespaces; of the release's own, where none is named. */}}
{{- define "headrace.peers.namespaces" -}}
{{- if . -}}
- namespaceSelector:
    matchExpressions:
      - {key: kubernetes.io/metadata.name, operator: In, values: {{ toJson . }}}
{{- else -}}
- podSelector: {}
{{- end -}}
{{- end }}

{{/* Pods of the release: (dict "root" $ "components" (list "gateway")). */}}
{{- define "headrace.peers.components" -}}
- podSelector:
    matchLabels:
      {{- include "headrace.selector" (dict "root" .root) | nindent 6 }}
    matchExpressions:
      - {key: app.kubernetes.io/component, operator: In, values: {{ toJson .components }}}
{{- end }}

{{/* A metrics port, where somebody scrapes: (dict "policy" .Values.networkPolicy "port" N). */}}
{{- define "headrace.scraped" -}}
{{- if .policy.monitoringNamespaces -}}
- ports: [{port: {{ int64 .port }}}]
  from:
    {{- include "headrace.peers.namespaces" .policy.monitoringNamespaces | nindent 4 }}
{{- end -}}
{{- end }}

{{/* To the chart's own collector, where spans go there. */}}
{{- define "headrace.collected" -}}
{{- if and .Values.telemetry.collector.enabled (not .Values.telemetry.otlpEndpoint) -}}
- ports: [{port: 4317}]
  to:
    {{- include "headrace.peers.components" (dict "root" $ "components" (list "collector")) | nindent 4 }}
{{- end -}}
{{- end }}

{{/* The port in telemetry.otlpEndpoint; without one gRPC's own, in plain text too. */}}
{{- define "headrace.otlpPort" -}}
{{ default "443" (trimPrefix ":" (regexFind ":[0-9]+" (trimPrefix "http://" (trimPrefix "https://" .Values.telemetry.otlpEndpoint)))) }}
{{- end }}
