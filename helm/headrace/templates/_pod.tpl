{{/* What the pods of gateways, control and `helm test` have in common: all run the gateway image. */}}

{{/* Labels and annotations: (dict "root" $ "component" "gateway" "of" .Values.gateway). */}}
{{- define "headrace.pod.metadata" -}}
labels:
  {{- toYaml (merge (dict) .of.podLabels (fromYaml (include "headrace.labels" .))) | nindent 2 }}
annotations:
  checksum/settings: {{ include "headrace.settings" .root | sha256sum }}
  {{- with merge (dict) .of.podAnnotations .root.Values.commonAnnotations }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- end }}

{{/* No token of the API server's, and no variables of Services: theirs begin with the release's name, as ours do. */}}
{{- define "headrace.pod.identity" -}}
serviceAccountName: {{ include "headrace.gateway.serviceAccount" . | quote }}
automountServiceAccountToken: false
enableServiceLinks: false
securityContext:
  {{- toYaml .Values.podSecurityContext | nindent 2 }}
{{- with .Values.global.imagePullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . | quote }}
  {{- end }}
{{- end }}
{{- end }}

{{/* Where: .Values.gateway or .Values.control. */}}
{{- define "headrace.pod.placement" -}}
{{- $said := dict -}}
{{- range $field := list "priorityClassName" "nodeSelector" "affinity" "tolerations" -}}
{{- with get $ $field }}{{ $_ := set $said $field . }}{{ end -}}
{{- end -}}
{{- with $said }}{{ toYaml . }}{{ end -}}
{{- end }}

{{- define "headrace.container" -}}
image: {{ include "headrace.image" (dict "root" . "image" .Values.image.gateway) | quote }}
imagePullPolicy: {{ .Values.image.gateway.pullPolicy }}
securityContext:
  {{- toYaml .Values.containerSecurityContext | nindent 2 }}
{{- end }}

{{/* Which pod it is goes into every span: the SDK reads OTEL_RESOURCE_ATTRIBUTES. */}}
{{- define "headrace.container.env" -}}
{{- range $name, $field := dict "POD_NAME" "metadata.name" "POD_UID" "metadata.uid" "POD_NAMESPACE" "metadata.namespace" "NODE_NAME" "spec.nodeName" }}
- name: {{ $name }}
  valueFrom: {fieldRef: {fieldPath: {{ $field }}}}
{{- end }}
- name: OTEL_RESOURCE_ATTRIBUTES
  value: k8s.pod.name=$(POD_NAME),k8s.pod.uid=$(POD_UID),k8s.namespace.name=$(POD_NAMESPACE),k8s.node.name=$(NODE_NAME)
{{- end }}

{{/*
Probes, by the names that a process has in grpc.health.v1 (docs/operations.md): (dict "port" N). A probe takes a number.
Startup waits for the port alone: models may take minutes, and readiness says when they are there. Liveness is the event
loop's turning, never a model's or control's state: a restart would mend neither.
*/}}
{{- define "headrace.container.probes" -}}
startupProbe:
  grpc: {port: {{ .port }}, service: liveness}
  periodSeconds: 1
  failureThreshold: 60
readinessProbe:
  grpc: {port: {{ .port }}, service: readiness}
  periodSeconds: 2
  timeoutSeconds: 2
  failureThreshold: 2
livenessProbe:
  grpc: {port: {{ .port }}, service: liveness}
  periodSeconds: 5
  timeoutSeconds: 3
  failureThreshold: 6
{{- end }}

{{/*
/etc/headrace: a ConfigMap, and the certificate below tls/, in one volume: the kubelet renews it as a whole, and the
process reads the certificate again. (dict "root" $ "configMap" "…").
*/}}
{{- define "headrace.pod.configuration" -}}
- name: configuration
  projected:
    defaultMode: 0440
    sources:
      - configMap: {name: {{ .configMap | quote }}}
      {{- with .root.Values.tls.secretName }}
      - secret:
          name: {{ . | quote }}
          items:
            - {key: tls.crt, path: tls/tls.crt}
            - {key: tls.key, path: tls/tls.key}
            - {key: ca.crt, path: tls/ca.crt}
      {{- end }}
{{- end }}

{{/* gRPC, for proxies that look: (dict "root" $ "port" .Values.gateway.port). */}}
{{- define "headrace.servicePort" -}}
- name: grpc
  port: {{ int64 .port }}
  targetPort: grpc
  appProtocol: {{ ternary "kubernetes.io/h2c" "https" (empty .root.Values.tls.secretName) }}
{{- end }}
