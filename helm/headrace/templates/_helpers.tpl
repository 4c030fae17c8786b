{{/* Names, labels and what more than one template says. Selectors are only name, instance and component. */}}

{{- define "headrace.name" -}}
{{ default .Chart.Name .Values.nameOverride | trunc 40 | trimSuffix "-" }}
{{- end }}

{{/* At most 40 characters: the longest suffix of ours fits into 63, and a RayService into its 47. */}}
{{- define "headrace.fullname" -}}
{{- $name := include "headrace.name" . -}}
{{- $full := ternary .Release.Name (printf "%s-%s" .Release.Name $name) (contains $name .Release.Name) -}}
{{ default $full .Values.fullnameOverride | trunc 40 | trimSuffix "-" }}
{{- end }}

{{/* Of every object: (dict "root" $ "component" "gateway"). */}}
{{- define "headrace.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version | replace "+" "_" }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
app.kubernetes.io/part-of: headrace
{{ include "headrace.selector" . }}
{{- with .root.Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- define "headrace.selector" -}}
app.kubernetes.io/name: {{ include "headrace.name" .root | quote }}
app.kubernetes.io/instance: {{ .root.Release.Name | quote }}
{{- with .component }}
app.kubernetes.io/component: {{ . }}
{{- end }}
{{- end }}

{{/* metadata of an object: (dict "root" $ "component" "gateway" "name" "…"). */}}
{{- define "headrace.metadata" -}}
name: {{ .name | quote }}
namespace: {{ .root.Release.Namespace | quote }}
labels:
  {{- include "headrace.labels" . | nindent 2 }}
{{- with merge (dict) (default (dict) .annotations) .root.Values.commonAnnotations }}
annotations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{/* (dict "root" $ "image" .Values.image.gateway) */}}
{{- define "headrace.image" -}}
{{- $registry := ternary "" (printf "%s/" .root.Values.global.imageRegistry) (empty .root.Values.global.imageRegistry) -}}
{{- if .image.digest -}}
{{ $registry }}{{ .image.repository }}@{{ .image.digest }}
{{- else -}}
{{ $registry }}{{ .image.repository }}:{{ default .root.Chart.AppVersion .image.tag }}
{{- end }}
{{- end }}

{{/* Where gateways and replicas find control: a name, never an address. */}}
{{- define "headrace.control.address" -}}
{{ include "headrace.fullname" . }}-control.{{ .Release.Namespace }}.svc:{{ int64 .Values.control.port }}
{{- end }}

{{- define "headrace.gateway.serviceAccount" -}}
{{ default (ternary (include "headrace.fullname" .) "default" .Values.serviceAccount.create) .Values.serviceAccount.name }}
{{- end }}

{{- define "headrace.ray.serviceAccount" -}}
{{ default (ternary (printf "%s-ray" (include "headrace.fullname" .)) "default" .Values.serviceAccount.create) .Values.serviceAccount.name }}
{{- end }}
