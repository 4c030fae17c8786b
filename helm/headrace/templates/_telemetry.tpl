{{/* What the objects of monitoring and the collector have in common. */}}

{{/* metadata of an object that an operator or a sidecar finds by labels of its own:
     (dict "root" $ "component" "…" "name" "…" "labels" .Values.…labels). */}}
{{- define "headrace.found.metadata" -}}
{{- $metadata := include "headrace.metadata" . | fromYaml -}}
{{- toYaml (merge (dict "labels" (deepCopy (default (dict) .labels))) $metadata) -}}
{{- end }}

{{/* Which series are those of this release's gateways: a PodMonitor's job is called after it. */}}
{{- define "headrace.rules.own" -}}
{{- $job := printf "job=\"%s/%s-gateway\"" .Release.Namespace (include "headrace.fullname" .) -}}
{{- default $job .Values.telemetry.rules.selector -}}
{{- end }}

{{/* Label `release` of recorded series and alerts: two releases may have one Prometheus. */}}
{{- define "headrace.rules.release" -}}
{{ .Release.Namespace }}/{{ include "headrace.fullname" . }}
{{- end }}
